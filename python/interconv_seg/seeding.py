"""Seeds: every random choice is a pure function of a name, so that a run that was killed goes on with the same bits."""

from __future__ import annotations

import hashlib

import numpy as np


def seed_of(*parts: int | str) -> int:
    """A seed in [0, 2**63) for what `parts` name, such as `seed_of(seed, step)`: the same on every machine, unrelated
    between names."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def random_of(*parts: int | str) -> np.random.Generator:
    """The generator of random numbers for what `parts` name."""
    return np.random.Generator(np.random.PCG64(seed_of(*parts)))
