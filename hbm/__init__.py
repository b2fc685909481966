"""Hierarchical Bayesian models of galaxies.

Catalogues, NumPyro models, inference, convergence checks, results and plots, and the command line program
``hbm``. Imports `sed`, and never torch.
"""
