"""Benchmarks. Run `python -m benchmarks --help` in the root of a checkout."""
