"""Benchmarks of the layer; run as modules from the repository root."""
