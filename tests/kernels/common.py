"""What the kernel tests share: a case, the gradients of the layer, and those of the reference implementation."""

import math
import os
from dataclasses import dataclass

import torch
from torch import Tensor

import interconv_kernels as ik

ALGORITHMS = ("concat", "split", "centered", "auto")
FORMATS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}
FORMATS_3D = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last_3d}
LAYERS = {3: ik.interconv1d, 4: ik.interconv2d, 5: ik.interconv3d}  # by the rank of u
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
RAGGED = {
    "one of each": [1, 2, 7, 3],
    "with empty sets": [0, 2, 0, 0, 5, 1, 0],
    "all of size 1": [1, 1, 1, 1],
    "one large set": [64],
    "large and small": [1, 64, 2],
}


# A process with TRITON_INTERPRET=1 is there for backend "triton" (see the Makefile): the interpreter is slow.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
BACKENDS = ("triton",) if INTERPRETED else ("torch", "cpp")


@dataclass
class Case:
    u: Tensor
    weight: Tensor
    bias: Tensor | None
    lengths: list[int]
    conv: dict

    @property
    def sets(self):
        return ik.Sets.from_lengths(self.lengths)

    def to(self, dtype):
        return Case(
            *(None if x is None else x.detach().to(dtype) for x in (self.u, self.weight, self.bias)),
            self.lengths,
            self.conv,
        )

    def require_grad(self):
        for x in (self.u, self.weight, self.bias):
            if x is not None:
                x.requires_grad_()
        return self

    @property
    def tensors(self):
        return [x for x in (self.u, self.weight, self.bias) if x is not None]


def make_case(
    lengths,
    channels=5,
    out_channels=4,
    size=(9, 7),
    kernel=3,
    dtype=torch.float64,
    fmt="nchw",
    bias=True,
    seed=0,
    **conv,
):
    """Values rounded to `dtype`, so that the oracle in float64 sees the same input. `size` has 1, 2 or 3 axes."""
    random = torch.Generator().manual_seed(seed)
    kernel = (kernel,) * len(size) if isinstance(kernel, int) else kernel
    memory_format = (FORMATS_3D if len(size) == 3 else FORMATS)[fmt]

    def values(*shape):
        return torch.randn(shape, generator=random, dtype=torch.float64).to(dtype)

    u = values(sum(lengths), channels, *size).contiguous(memory_format=memory_format)
    weight = values(out_channels, 2 * channels, *kernel) / (2 * channels * math.prod(kernel)) ** 0.5
    weight = weight.to(dtype).contiguous(memory_format=memory_format)
    return Case(u, weight, values(out_channels) if bias else None, list(lengths), conv)


def layer(case, algorithm="auto", backend="auto", **settings):
    settings = {**case.conv, **settings, "algorithm": algorithm, "backend": backend}
    return LAYERS[case.u.dim()](case.u, case.weight, case.bias, case.sets, **settings)


def oracle(case):
    return ik.reference.interconv(case.u, case.weight, case.bias, case.lengths, **case.conv)


def eager_concat(case):
    """The layer in plain torch in the case's own dtype: what low precision is measured against."""
    return ik.reference.concat_interconv(case.u, case.weight, case.bias, case.lengths, **case.conv)


def with_grads(function, case, g):
    """[y, grad_u, grad_weight, grad_bias] of a function of the case."""
    case.require_grad()
    y = function(case)
    return [y.detach(), *torch.autograd.grad(y, case.tensors, g.to(y.dtype))]


worst = ik.reference.relative_error
