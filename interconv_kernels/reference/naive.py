"""InterConv as the paper writes it, one set after the other, without regard to speed.

`interconv` in torch (any dtype; float64 for tests, differentiable), `interconv2d_numpy` without torch. Neither shares
code with the kernels that are tested against it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Pair = tuple[int, int]
Ints = tuple[int, ...]  # one for each axis of an image, a signal or a volume
CONVOLUTIONS = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}  # by the rank of the input


def interconv(
    u: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    lengths: Sequence[int],
    stride: int | Ints = 1,
    padding: int | Ints | str = "same",
    dilation: int | Ints = 1,
) -> Tensor:
    """y_i = conv(concat(u_i, s); weight) + bias, s the mean of the sample's set (paper, Eq. 1-3).

    Args:
        u: [N,C,H,W], any floating point dtype; float64 for tests. Or signals [N,C,L], or volumes [N,C,D,H,W].
        weight: [Co,2C,kh,kw], the half for u_i first; [Co,2C,k] or [Co,2C,kd,kh,kw].
        bias: [Co] or None.
        lengths: the set sizes, with sum N; 0 is allowed.
        stride: an int, or one for each axis.
        padding: "same" (dilation * (k - 1) / 2 zeros on each side, for odd k, at any stride), or as `stride`.
        dilation: as `stride`.

    Returns:
        y [N,Co,H',W'], [N,Co,L'] or [N,Co,D',H',W'], differentiable.
    """
    if isinstance(padding, str):
        padding = same_padding(weight, dilation)
    convolve = CONVOLUTIONS[u.dim()]
    outputs = []
    for samples in u.split(list(lengths)):
        if len(samples) == 0:
            continue
        s = samples.sum(0) / len(samples)  # Eq. 1
        for u_i in samples:
            c_i = torch.cat([u_i, s], dim=0)  # Eq. 2
            outputs.append(convolve(c_i[None], weight, bias, stride, padding, dilation)[0])  # Eq. 3
    if not outputs:
        return convolve(torch.cat([u, u], dim=1), weight, bias, stride, padding, dilation)  # N = 0: the right shape
    return torch.stack(outputs)


def same_padding(weight: Tensor, dilation: int | Ints) -> Ints:
    """Zeros on each side along each axis that keep the size at stride 1, for odd kernels."""
    kernel = weight.shape[2:]
    dilations = (dilation,) * len(kernel) if isinstance(dilation, int) else dilation
    return tuple(d * (k // 2) for d, k in zip(dilations, kernel, strict=True))


def interconv2d_numpy(
    u: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None,
    lengths: Sequence[int],
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
) -> np.ndarray:
    """The same forward in float64 numpy: a sum over the taps of the kernel of shifted, strided images.

    Args:
        u: [N,C,H,W].
        weight: [Co,2C,kh,kw], the half for u_i first.
        bias: [Co] or None.
        lengths: the set sizes, with sum N; 0 is allowed.
        stride: (height, width).
        padding: zeros on each side, (height, width).
        dilation: (height, width).

    Returns:
        y [N,Co,H',W'], float64.
    """
    u, weight = u.astype(np.float64), weight.astype(np.float64)
    (n, _, height, width), (out_channels, _, kh, kw) = u.shape, weight.shape
    h_out = (height + 2 * padding[0] - dilation[0] * (kh - 1) - 1) // stride[0] + 1
    w_out = (width + 2 * padding[1] - dilation[1] * (kw - 1) - 1) // stride[1] + 1
    y = np.zeros((n, out_channels, h_out, w_out))
    first = 0
    for length in lengths:
        samples = u[first : first + length]
        for i in range(length):
            s = samples.sum(axis=0) / length
            c = np.concatenate([samples[i], s], axis=0)
            c = np.pad(c, ((0, 0), (padding[0], padding[0]), (padding[1], padding[1])))
            for a in range(kh):
                for b in range(kw):
                    top, left = a * dilation[0], b * dilation[1]
                    tap = c[:, top : top + h_out * stride[0] : stride[0], left : left + w_out * stride[1] : stride[1]]
                    y[first + i] += np.einsum("oc,chw->ohw", weight[:, :, a, b], tap[:, :h_out, :w_out])
        first += length
    return y if bias is None else y + bias.astype(np.float64)[None, :, None, None]
