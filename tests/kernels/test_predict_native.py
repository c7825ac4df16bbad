"""The counts of the native layer and what is predicted from them, against counts made by hand and by the emulator."""

import pytest
import torch

pytest.importorskip("triton", reason="triton has no wheel for this platform")

from benchmarks.gpu import native, predict_layers, predict_networks
from benchmarks.gpu.native import Layer, configs
from benchmarks.gpu.predict import GPUS

if (reason := native.reason_unavailable()) is not None:
    pytest.skip(reason, allow_module_level=True)

BY_NAME = {config.name: config for config in configs()}
SMALL, STREAMED = BY_NAME["halo-3x3-16x16-16x16"], BY_NAME["halo-3x3-16x128-16x16"]


@pytest.fixture(autouse=True)
def as_in_a_process_of_its_own():
    """Not deterministic: tests/conftest.py has torch fill new memory, and replace operators by several others."""
    torch.use_deterministic_algorithms(False)
    yield
    torch.use_deterministic_algorithms(True)


def brute_force_halo(size, tile):
    return sum(len(range(max(0, first - 1), min(size, first + tile + 1))) for first in range(0, size, tile))


@pytest.mark.parametrize(("size", "tile"), [(16, 16), (19, 16), (160, 16), (10, 16), (40, 10), (1, 8)])
def test_pixels_in_halo_tiles(size, tile):
    assert native.halo_sum(size, tile) == brute_force_halo(size, tile)


def test_pieces_of_sets():
    assert native.pieces((1, 7, 0, 2), 2) == [[(1, 1), (4, 7)], [(3, 7), (2, 2)]]
    assert native.pieces((4, 4), 1) == [[(4, 4), (4, 4)]]
    assert native.pieces((2, 5), 2) == [[(2, 2), (2, 5)], [(3, 5)]]  # the first parts have one more


def test_the_work_of_the_busiest_multiprocessor():
    """Two multiprocessors: seven samples of a set of seven, and one sample; or two halves with the same sets."""
    layer = Layer(16, 16, 16, 16, (3, 1))
    assert native.counts(SMALL, layer, 2, 1, parts=2).imbalance == 3 / ((3 + 4) / 2) * 8 / 6
    assert native.counts(SMALL, layer._replace(lengths=(4, 4)), 2, 1, parts=2).imbalance == 1


def test_products_are_within_5_percent_of_the_ideal_where_tiles_divide_the_image():
    layer = Layer(16, 16, 160, 192, (7,) * 8)
    found = native.counts(SMALL, layer, 132, 2)
    assert found.products == found.needed_products * 8 / 7  # and the term of each set


@pytest.mark.parametrize("name", ["h100", "a100"])
def test_no_prediction_is_above_the_floor(name):
    gpu = GPUS[name]
    for config, layer in ((SMALL, Layer(16, 16, 160, 192, (7, 1))), (STREAMED, Layer(137, 137, 20, 24, (3, 2)))):
        least = predict_layers.floor(gpu, layer).seconds
        overlapped, serial = (predict_layers.native(gpu, config, layer, x).seconds for x in (True, False))
        assert least <= overlapped <= serial
        for algorithm in ("default", "concat"):
            assert least < predict_layers.vendor(gpu, layer, algorithm).seconds


def test_the_bytes_of_the_vendors_layers():
    """split: the means are read, u convolved, the term added; concat writes 2 C channels and reads them."""
    layer = Layer(32, 32, 64, 64, (6,) * 10)
    image = 32 * 64 * 64 * 2
    split = predict_layers.vendor(GPUS["h100"], layer, "split").bytes
    assert split == pytest.approx((5 * 60 + 4 * 10) * image, rel=0.02)
    assert predict_layers.vendor(GPUS["h100"], layer, "concat").bytes == pytest.approx(6 * 60 * image, rel=0.02)


# --- networks ---------------------------------------------------------------------------------------------------------


def test_the_layers_of_a_network_are_found():
    pytest.importorskip("interconv_seg")
    step = predict_networks.step_of("simpleunet-60K", False)
    shapes = {(kind.layer.channels, kind.layer.out_channels, kind.layer.height): n for kind, n in step.kinds.items()}
    # The first, four down, the bottleneck, four up with twice the channels of which the last makes the classes.
    assert sum(shapes.values()) == 10
    assert shapes[(1, 16, 160)] == 1
    assert shapes[(32, 21, 160)] == 1
    assert {height for *_, height in shapes} == {160, 80, 40, 20, 10}
    assert not any("convolution" in op.name for op in step.others)  # all are InterConv layers
    training = predict_networks.step_of("simpleunet-60K", True)
    assert training.kinds.keys() == {kind._replace(needs_u=kind.layer.channels > 1) for kind in step.kinds}


def test_a_step_counts_each_layer_and_all_other_operators():
    pytest.importorskip("interconv_seg")
    gpu = GPUS["h100"]
    total = predict_networks.predict_step(gpu, "simpleunet-60K", False, "concat")
    step = predict_networks.step_of("simpleunet-60K", False)
    layers = [
        n * predict_networks.layer_way(gpu, kind, "forward", "concat")[0].seconds for kind, n in step.kinds.items()
    ]
    others = sum(op.bytes for op in step.others) / gpu.bandwidth
    assert total.device == pytest.approx(sum(layers) + others)
    assert total.seconds == max(total.device, total.host)
    assert total.launches >= len(step.others) + 2 * sum(
        step.kinds.values()
    )  # the mean with its concatenation, and conv
