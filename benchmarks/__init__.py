"""Benchmarks; from the repository root: `python -m benchmarks --help`."""
