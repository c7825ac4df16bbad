"""Formulas for torch's `FlopCounterMode`: the arithmetic of the layer in half-convolutions, per algorithm.

A batch of N samples in B sets takes 2N half-convolutions by `concat`, N + B by `split` and N by `centered`. `auto` and
`fused` choose when they run; they are counted as `split`, the most that they take. Additions of means and set terms are
not counted, as torch does not count those of a bias.
"""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import torch

from . import ops  # noqa: F401  (defines the operators)

Shape = Sequence[int]
COUNTER = "torch.utils.flop_counter"


def _flops(weight: Shape, y: Shape, offsets: Shape, algorithm: str) -> int:
    """Of one convolution of the layer; that of a gradient has as many."""
    out_channels, channels, *kernel = weight
    num_samples, num_sets = y[0], offsets[0] - 1
    half_convolutions = {"concat": 2 * num_samples, "centered": num_samples}.get(algorithm, num_samples + num_sets)
    return half_convolutions * 2 * out_channels * (channels // 2) * math.prod(kernel) * math.prod(y[2:])


def _forward(u: Shape, weight: Shape, bias: Any, offsets: Shape, *rest: Any, out_shape: Shape, **_: Any) -> int:
    return _flops(weight, out_shape, offsets, rest[-2])


def _leaky_relu(u: Shape, weight: Shape, bias: Any, slope: Shape, *rest: Any, **settings: Any) -> int:
    return _forward(u, weight, bias, *rest, **settings)


def _backward(g: Shape, u: Shape, weight: Shape, offsets: Shape, *rest: Any, **_: Any) -> int:
    algorithm, need = rest[-3], rest[-1]
    return (need[0] + need[1]) * _flops(weight, g, offsets, algorithm)


def _register(counter: ModuleType) -> None:
    for name, formula in (
        ("interconv", _forward),
        ("interconv_leaky_relu", _leaky_relu),
        ("interconv_backward", _backward),
    ):
        counter.register_flop_formula(getattr(torch.ops.interconv, name))(formula)


class _WhenImported(MetaPathFinder):
    """Registers the formulas once something imports the counter, which imports Triton and would slow our import."""

    def find_spec(self, name: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != COUNTER:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.loader is not None
        execute = spec.loader.exec_module

        def execute_and_register(module: ModuleType) -> None:
            execute(module)
            _register(module)

        spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec


if COUNTER in sys.modules:
    _register(sys.modules[COUNTER])
else:
    sys.meta_path.insert(0, _WhenImported())
