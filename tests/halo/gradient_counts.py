"""Counts of the weight gradient's kernels for one pixel, and what they predict: python tests/halo/gradient_counts.py

PREDICTED, not measured. The slowest of memory, L2 cache, products and shared memory, each at its full rate and all
overlapped, for sets of seven, C = Co, and images that the tiles divide.
"""

from __future__ import annotations

from typing import NamedTuple

import emulated_weight_gradient
from gradient_cases import GradientCase

SET_SIZE = 7
CASES = {16: (32, 64), 32: (44, 32), 64: (44, 32), 128: (22, 32)}  # channels: size


class Gpu(NamedTuple):
    """Data sheets, except for the L2 cache and the share of the tensor cores' peak that mma.sync gets (assumed)."""

    memory: float  # bytes a second
    cache: float
    processors: int
    clock: float
    products: float  # of 16 x 8 x 16, of a multiprocessor in a clock


GPUS = {"A100": Gpu(2.04e12, 4.5e12, 108, 1.41e9, 1 / 2), "H100": Gpu(3.35e12, 5.5e12, 132, 1.755e9, 1 / 1.6)}


def main() -> None:
    library = emulated_weight_gradient.build_weight_gradient()
    for channels, size in CASES.items():
        result = GradientCase(channels, channels, size, [SET_SIZE]).run(library)
        assert result.errors == []
        pixels = SET_SIZE * size[0] * size[1]
        count = {
            name: (result.counts["own"][name] + result.counts["set"][name]) / pixels for name in result.counts["own"]
        }
        own = {name: n / pixels for name, n in result.counts["own"].items()}
        names = ("copied_u", "copied_g", "products", "wavefronts")
        print(f"C = {channels}: " + ", ".join(f"{name} {own[name]:.1f}" for name in names))
        once = 4 * channels  # bytes of u and g
        for name, gpu in GPUS.items():
            rate = gpu.processors * gpu.clock
            times = {
                "memory": once * (1 + 2 / SET_SIZE) / gpu.memory,  # read once; means and totals written and read
                "L2": (count["copied"] + once * (1 + 1 / SET_SIZE)) / gpu.cache,
                "products": count["products"] / gpu.products / rate,
                "shared memory": count["wavefronts"] / rate,
            }
            floor = max(once / gpu.memory, own["products"] / gpu.products / rate)
            limit = max(times, key=lambda resource: times[resource])
            reduced = once * (1 + 1 / SET_SIZE) / gpu.memory  # by set_reduce, before
            separate = reduced + max(reduced, times["products"])
            print(
                f"  {name}, predicted: {floor / times[limit]:.0%} of the floor, limited by {limit};"
                f" {floor / separate:.0%} with separate set sums"
            )


if __name__ == "__main__":
    main()
