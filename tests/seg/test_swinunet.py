"""SwinUNet's windows against a loop over tokens, and its tokens as channels_last images."""

import math

import pytest
import torch
from interconv_seg import build
from interconv_seg.networks.swinunet import WINDOW, WindowAttention

import interconv_kernels as ik


def naive_attention(attention, x):
    """Each token attends to those of its window: softmax(q k / sqrt(d) + bias) v, token by token."""
    n, channels, height, width = x.shape
    d = channels // attention.heads
    y = torch.zeros_like(x)
    start = [WINDOW // 2 if attention.shifted and side > WINDOW else 0 for side in (height, width)]
    tokens = [(i, j) for i in range(height) for j in range(width)]
    window = {(i, j): ((i - start[0]) // WINDOW, (j - start[1]) // WINDOW) for i, j in tokens}
    q, k, v = attention.qkv(x.permute(0, 2, 3, 1)).unflatten(-1, (3, attention.heads, d)).unbind(3)
    for sample in range(n):
        for i, j in tokens:
            others = [token for token in tokens if window[token] == window[i, j]]
            heads = []
            for head in range(attention.heads):
                scores = [
                    q[sample, i, j, head] @ k[sample, a, b, head] / math.sqrt(d)
                    + attention.position_bias[(i - a + WINDOW - 1) * (2 * WINDOW - 1) + (j - b + WINDOW - 1), head]
                    for a, b in others
                ]
                shares = torch.stack(scores).softmax(0)
                heads.append(sum(p * v[sample, a, b, head] for p, (a, b) in zip(shares, others, strict=True)))
            y[sample, :, i, j] = attention.project(torch.cat(heads))
    return y


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("size", [(7, 7), (3, 5), (14, 7), (9, 12)])
def test_windows(shifted, size):
    torch.manual_seed(0)
    attention = WindowAttention(4, 2, shifted).double()
    torch.nn.init.normal_(attention.position_bias)
    x = torch.randn(2, 4, *size, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(attention(x), naive_attention(attention, x), rtol=1e-9, atol=1e-9)


def test_the_gradient_of_the_position_bias():
    torch.manual_seed(0)
    attention = WindowAttention(4, 2, True).double()
    x, g = torch.randn(2, 1, 4, 8, 9, dtype=torch.float64)
    grads = [
        torch.autograd.grad((form(x) * g).sum(), attention.position_bias)[0]
        for form in (attention, lambda x: naive_attention(attention, x))
    ]
    torch.testing.assert_close(*grads, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("interconv", ["replace", "append"])
def test_interconv_takes_tokens_without_a_copy(interconv):
    """InterConv2d gets the memory of the tokens, and neither its forward nor its backward copies it."""
    block = build("swinunet", interconv, features=24).body.encoder[0][0]
    before, layer = (
        (block.mlp_norm, block.mlp.expand) if interconv == "replace" else (block.attention[0], block.attention[1])
    )
    given, taken = [], []
    before.register_forward_hook(lambda module, inputs, y: given.append(y))
    layer.register_forward_pre_hook(lambda module, inputs: taken.append(inputs[0]))
    tokens = torch.randn(3, 56, 48, 24)  # [N, H, W, C]
    with ik.use_sets(ik.Sets.from_lengths([2, 1])):
        block(tokens.permute(0, 3, 1, 2))
        [u] = taken
        assert u.is_contiguous(memory_format=torch.channels_last)
        assert u.data_ptr() == given[0].data_ptr()
        u = u.detach().requires_grad_()
        with torch.profiler.profile(record_shapes=True) as profile:
            y = layer(u)
            y.backward(torch.ones_like(y))
    assert y.is_contiguous(memory_format=torch.channels_last)
    copies = [
        (event.name, event.input_shapes)
        for event in profile.events()
        if event.name in ("aten::copy_", "aten::clone", "aten::contiguous", "aten::_to_copy")
        and min((math.prod(shape) for shape in event.input_shapes if shape), default=0) >= u[0].numel()
    ]
    assert not copies
