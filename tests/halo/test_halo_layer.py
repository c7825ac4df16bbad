"""The layer in one launch from Python: which configuration computes it, its gradients, and where it is not used."""

import re
from types import SimpleNamespace

import emulated
import emulated_weight_gradient
import pytest
import torch
from emulated import Options
from halo_cases import CONFIGS, LIMITS, PRECISION, Case, pick  # first: it may skip

import interconv_kernels as ik
from interconv_kernels import reference
from interconv_kernels._accuracy import float32_as, with_gradients
from interconv_kernels._backends.contract import DIRECTIONS
from interconv_kernels._backends.cpp import halo
from interconv_kernels.convolution import Conv


def test_every_architecture_can_compute_every_layer():
    for limit in LIMITS.values():
        for kernel, stride in ((3, 1), (3, 2), (1, 1)):
            for channels in (1, 3, 16, 21, 46, 64, 92, 137, 368, 2000):
                assert halo.candidates_for(kernel, stride, channels, 64, limit)
                assert halo.candidates_for(kernel, stride, 16, channels, limit)


def test_every_configuration_is_a_default_of_some_layer():
    layers = [(16, 16, 160, 192), (32, 21, 160, 192), (49, 49, 80, 96), (46, 46, 80, 96), (100, 100, 40, 48)]
    layers += [(282, 282, 20, 24), (184, 184, 40, 48), (368, 368, 10, 12), (137, 137, 64, 64), (128, 128, 64, 64)]
    layers += [(92, 92, 80, 96), (84, 336, 40, 48)]
    picked = {
        pick(channels, out_channels, (h, w), gpu, kernel, stride).name
        for channels, out_channels, h, w in layers
        for gpu in LIMITS
        for kernel, stride in ((3, 1), (3, 2), (1, 1))
    }
    assert picked == {config.name for config in CONFIGS}


def test_padding_is_small_on_the_papers_sizes():
    """Products, with images padded to tiles and channels to chunks and columns, over what is needed."""
    for channels, size in ((16, (160, 192)), (46, (80, 96)), (184, (20, 24)), (282, (20, 24)), (137, (64, 64))):
        config = pick(channels, channels, size)
        tiles = -(-size[0] // config.tile_h) * -(-size[1] // config.tile_w)
        products = tiles * config.tile_h * config.tile_w * config.padded_products(channels, channels)
        assert products <= 1.11 * size[0] * size[1] * channels * channels


# --- the layer in Python ---------------------------------------------------------------------------------------------


@pytest.fixture
def on_emulator(library, gradients, monkeypatch):
    """The layer's Python code with the emulator in place of the raw ops, on CPU tensors."""

    def halo_layer(*arguments):
        assert emulated.launch(library, Options(), *arguments).errors == []

    def halo_weight_gradient(*arguments):
        assert emulated_weight_gradient.launch(gradients, emulated_weight_gradient.Options(), *arguments).errors == []

    ops = SimpleNamespace(halo_layer=halo_layer, halo_weight_gradient=halo_weight_gradient)
    monkeypatch.setattr(halo, "_ops", ops)
    monkeypatch.setattr(halo, "_shared_limit", lambda device: LIMITS["sm_80"])
    monkeypatch.setattr(halo, "_unsuitable_gpu", lambda device: None)
    monkeypatch.setattr(halo, "_has_wgmma", lambda device: False)


@pytest.mark.parametrize("fmt", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize(
    ("lengths", "kernel", "stride", "padding", "dtype"),
    [
        ([2, 1, 3], 3, 1, 1, torch.float16),
        ([1, 1], 3, 1, 0, torch.float16),
        ([2], 3, 1, 2, torch.float16),
        ([17], 3, 1, 1, torch.float16),
        ([2, 1], 3, 2, 1, torch.float16),
        ([1, 1], 3, 2, 0, torch.float16),
        ([2, 1], 1, 1, 0, torch.float16),
        ([2, 1, 3], 3, 1, 1, torch.float32),
        ([1, 1], 1, 1, 0, torch.float32),
    ],
    ids=str,
)
def test_layer_and_gradients(on_emulator, fmt, lengths, kernel, stride, padding, dtype):
    case = Case(9, 21, (7, 8), lengths, dtype, kernel=kernel)
    u, weight = case.u.contiguous(memory_format=fmt), case.weight.contiguous(memory_format=fmt)
    conv = Conv((stride, stride), (padding, padding), (1, 1), fmt)
    sets = ik.Sets.from_lengths(lengths)
    index = ik.sets.SetIndex(sets.live_offsets, sets.live_ids)
    with float32_as("tf32"):
        assert halo.can_fuse(conv, u, weight) is None
    y = halo.forward(conv, u, weight, case.bias, index, 1, None, {})
    g = torch.randn_like(y)
    found = [y, *halo.backward(conv, g, u, weight, index, (True, True, True), 1, {})]

    def results(layer, dtype):
        tensors = [x.to(dtype) for x in (u, weight, case.bias)]
        return with_gradients(lambda *x: layer(*x, lengths, padding=padding, stride=stride), tensors, g.to(dtype))

    exact = results(reference.interconv, torch.float64)
    torchs = results(reference.concat_interconv, PRECISION[dtype])
    for mine, own, want in zip(found, torchs, exact, strict=True):
        assert mine.dtype == dtype or mine.dim() == 1
        assert mine.is_contiguous(memory_format=fmt) or mine.dim() == 1
        assert reference.relative_error(mine, want) <= 2 * reference.relative_error(own, want) + 2**-11


def test_a_chosen_configuration_is_used(on_emulator, monkeypatch):
    used = []
    monkeypatch.setattr(halo, "_ops", SimpleNamespace(halo_layer=lambda *arguments: used.append(arguments[6])))
    case = Case(46, 46, (5, 6), [2])
    conv = Conv((1, 1), (1, 1), (1, 1), torch.channels_last)
    index = ik.sets.SetIndex(torch.tensor([0, 2], dtype=torch.int32), torch.tensor([0, 0], dtype=torch.int32))
    for direction in DIRECTIONS:
        names = halo.candidates(direction, conv, case.u, case.weight)["layer"]
        assert len(names) > 1
        for name in names:
            halo.forward(conv, case.u, case.weight, None, index, 1, None, {"layer": name})
            assert CONFIGS[used[-1]].name == name
    halo.forward(conv, case.u, case.weight, None, index, 1, None, {"layer": "no such configuration"})
    assert used[-1] == pick(46, 46, (5, 6)).row


@pytest.mark.parametrize(
    ("dtype", "kernel", "settings", "reason"),
    [
        (torch.float32, 3, {}, "allows TF32, not for torch.float32"),
        (torch.float64, 3, {}, "allows TF32, not for torch.float64"),
        (torch.float16, 1, {}, r"not for kernel \(1, 1\), stride \(1, 1\), padding \(1, 1\)"),
        (torch.float16, 1, {"stride": (2, 2), "padding": (0, 0)}, r"stride \(2, 2\)"),
        (torch.float16, 3, {"stride": (2, 1)}, r"stride \(2, 1\)"),
        (torch.float16, 3, {"padding": (3, 1)}, r"padding \(3, 1\)"),
        (torch.float16, 3, {"dilation": (2, 2)}, r"dilation \(2, 2\)"),
    ],
)
def test_reasons(dtype, kernel, settings, reason):
    conv = Conv(**({"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1)} | settings))
    u, weight = torch.empty(1, 4, 5, 5, dtype=dtype), torch.empty(4, 8, kernel, kernel, dtype=dtype)
    with float32_as("ieee"):
        assert re.search(reason, halo.can_fuse(conv, u, weight))


def test_gpus_without_these_kernels(monkeypatch):
    from interconv_kernels._backends import cpp

    monkeypatch.setattr(cpp, "build_report", lambda: {"halo_architectures": ["8.0", "9.0"]})
    for capability, reason in (
        ((7, 5), "expected at least"),
        ((8, 9), None),
        ((9, 0), None),
        ((12, 0), "built for 8.0, 9.0, the GPU has compute capability"),
    ):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, c=capability: c)
        found = halo._unsuitable_gpu.__wrapped__(torch.device("cuda"))
        assert found is None if reason is None else reason in found


def test_it_is_never_the_default_without_a_measurement(monkeypatch):
    from interconv_kernels import choice
    from interconv_kernels._backends.registry import BACKENDS

    monkeypatch.setattr(halo, "can_fuse", lambda conv, u, weight: None)
    u = SimpleNamespace(device=torch.device("cuda"), dtype=torch.bfloat16, shape=(8, 64, 32, 32))
    assert not choice._is_fused_by_default(
        BACKENDS["cpp"], "forward", Conv((1, 1), (1, 1), (1, 1)), u, torch.empty(64, 128, 3, 3)
    )


def test_one_machine_code_serves_later_minor_versions():
    names = _setup_function("tensor_core_architectures")
    assert names(["7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "12.0+PTX"]) == ["8.0", "9.0", "10.0", "12.0+PTX"]
    assert names(["8.6", "8.9+PTX"]) == ["8.6", "8.9+PTX"]
    assert names(["7.5"]) == []


def test_sm_90a_is_built_wherever_9_0_is():
    for_warpgroups = _setup_function("for_warpgroups")
    assert all(map(for_warpgroups, (["8.0", "9.0"], ["9.0+PTX"], ["9.0a"], ["9.0a+PTX", "8.0"])))
    assert not any(map(for_warpgroups, (["8.0", "8.9"], ["10.0", "12.0+PTX"], ["9.9"])))


def _setup_function(name):
    source = (emulated.ROOT / "setup.py").read_text()
    found = re.search(rf"def {name}\(.*?(?=\n\ndef |\nclass )", source, re.DOTALL)[0]
    scope = {"re": re}
    exec(found, scope)
    return scope[name]
