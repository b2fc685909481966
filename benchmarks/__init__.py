"""Benchmarks, run by hand: `python -m benchmarks.NAME`. Results go to ``benchmarks/results/NAME.json``."""
