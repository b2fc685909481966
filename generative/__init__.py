"""Generative models of galaxy images in PyTorch.

Reserved for image models; nothing is here yet. Importing this package does not load JAX.
"""
