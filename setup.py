"""Everything is in pyproject.toml; this file is where the C++/CUDA extension will be built."""

from setuptools import setup

setup()
