"""Seeds: every random choice is a pure function of a name, so that a resumed run continues with the same bits."""

from __future__ import annotations

import hashlib

import numpy as np


def seed_of(*parts: int | str) -> int:
    """A seed in [0, 2**63) for the name that `parts` form, such as `seed_of(seed, "step", 7)`.

    It is the same on every machine, and the seeds of different names are unrelated.
    """
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def random_of(*parts: int | str) -> np.random.Generator:
    """A random number generator, seeded with `seed_of(*parts)`."""
    return np.random.Generator(np.random.PCG64(seed_of(*parts)))
