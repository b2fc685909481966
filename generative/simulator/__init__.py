"""Simulated images of galaxies, in batches, on any device; see `generative.simulator.render`."""
