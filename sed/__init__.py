"""Spectral energy distributions of galaxies in JAX.

Simple stellar populations, star formation histories, dust, filters and cosmology become fluxes in maggies,
and measured fluxes become log-densities. Imports nothing of `hbm` or `generative`, and never torch; FSPS and
Prospector are references, imported by the functions that call them.
"""
