"""The layer in float32 with products in TF32: the kernels' own code on the emulator, as in the other tests."""

import pytest
import torch
from halo_cases import LIMITS, RAGGED, TF32_CONFIGS, Case, mutated, pick  # first: it may skip

from interconv_kernels._backends.cpp import halo

FLOAT32 = torch.float32


def rounded(x):
    """To the 10 bits of TF32, to nearest, away from zero in the middle."""
    return ((x.view(torch.int32) + 0x1000) & ~0x1FFF).view(FLOAT32)


@pytest.mark.parametrize("config", TF32_CONFIGS, ids=lambda config: config.name)
def test_every_configuration(library, config):
    layer = {"kernel": config.kernel, "stride": config.stride}
    streamed = config.weights == "streamed"
    channels = config.channels + 3 if streamed else config.channels  # two chunks, the last one in part
    Case(channels, config.columns, (11, 9), RAGGED, FLOAT32, **layer).check(library, config)
    odd = config.columns + 3 if streamed else config.columns - 1  # and two column tiles
    case = Case(channels - 1, odd, (5, 18), [1, 2], FLOAT32, transposed=config.stride == 1, **layer)
    case.check(library, config, order="shuffled", parts=3)


@pytest.mark.parametrize("transposed", [False, True], ids=["forward", "grad_u"])
@pytest.mark.parametrize(("channels", "out_channels"), [(1, 16), (3, 21), (22, 1), (46, 49), (92, 137)], ids=str)
def test_any_channels(library, channels, out_channels, transposed):
    config = pick(channels, out_channels, (4, 5), value_bytes=4)
    Case(channels, out_channels, (4, 5), [2], FLOAT32, transposed).check(library, config, programs=1)


def test_misaligned_memory(library):
    case = Case(8, 8, (5, 6), [2], FLOAT32, slope=True)
    for skipped in (1, 2):
        memory = torch.empty(skipped + case.u.numel())[skipped:]
        case.u = memory.view(2, 5, 6, 8).permute(0, 3, 1, 2).copy_(case.u)
        case.check(library, TF32_CONFIGS[0])


def test_factors_are_rounded_to_nearest_and_sums_are_not(library):
    [config] = [config for config in TF32_CONFIGS if config.kernel == 1]
    case = Case(1, 1, (1, 64), [1], FLOAT32, kernel=1)
    case.u[0, 0, 0, :3] = torch.tensor([1 + 2**-11, -1 - 2**-11, 1 + 2**-11 - 2**-20])
    case.weight[:] = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1)
    case.bias[:] = 2**-20
    y, report = case.run(library, config)
    assert report.errors == []
    assert torch.equal(y, rounded(case.u) + 2**-20)
    assert not torch.equal(y, rounded(y))


@pytest.mark.parametrize(
    ("pattern", "replacement"),
    [(r"block\.round\(top, bottom\);", ""), (r"= rounded_for_product<T>\(x\);", "= T{pack<T>(x, x).x};")],
    ids=["pixels", "weights"],
)
def test_factors_that_are_not_rounded_are_noticed(tmp_path, pattern, replacement):
    row = TF32_CONFIGS[0].row
    library = mutated(tmp_path, pattern, replacement, "configs.h", row)
    _, report = Case(8, 8, (5, 6), [2], FLOAT32).run(library, TF32_CONFIGS[0]._replace(row=0))
    assert "a factor that was not rounded to TF32" in report.errors[0]


def test_every_architecture_can_compute_every_layer():
    for limit in LIMITS.values():
        for kernel, stride in ((3, 1), (3, 2), (1, 1)):
            for channels in (1, 16, 21, 46, 368):
                assert halo.candidates_for(kernel, stride, channels, 64, limit, value_bytes=4)


def test_every_configuration_is_a_default_of_some_layer():
    layers = [(16, 16, 3, 1), (32, 21, 3, 1), (64, 64, 3, 1), (46, 46, 3, 1), (64, 64, 3, 2), (64, 64, 1, 1)]
    picked = {pick(c, co, (80, 96), "sm_80", kernel, stride, 4) for c, co, kernel, stride in layers}
    assert picked == set(TF32_CONFIGS)
