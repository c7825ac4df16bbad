"""Sliding windows over sets: ours against a naive loop in float64, and the refusal of MONAI's own."""

from concurrent.futures import ThreadPoolExecutor

import interconv_seg
import monai
import pytest
import torch
from interconv_seg.monai import SetSlidingWindowInferer
from monai.data import MetaTensor, decollate_batch
from monai.data.utils import compute_importance_map, dense_patch_slices
from monai.inferers import (
    PatchInferer,
    SliceInferer,
    SlidingWindowInferer,
    SlidingWindowSplitter,
    sliding_window_inference,
)
from monai.networks.nets import UNet

import interconv_kernels as ik
from interconv_kernels import _sliding_windows, choice

LENGTHS = [3, 1, 0, 2]


def network(dtype=torch.float64):
    torch.manual_seed(0)
    layers = torch.nn.Sequential(ik.InterConv2d(2, 4), torch.nn.ReLU(), ik.InterConv2d(4, 3))
    return ik.SetModel(layers.to(dtype)).eval().requires_grad_(False)


def images(n=6, height=40, width=52, dtype=torch.float64):
    return torch.randn(n, 2, height, width, dtype=dtype, generator=torch.Generator().manual_seed(1))


def naive(x, model, lengths, roi, starts, weights):
    """The weighted mean of all windows' outputs, one window of all images at a time."""
    total = torch.zeros(x.shape[0], 3, *x.shape[2:], dtype=torch.float64)
    count = torch.zeros(x.shape[2:], dtype=torch.float64)
    for i in starts[0]:
        for j in starts[1]:
            place = (..., slice(i, i + roi[0]), slice(j, j + roi[1]))
            total[place] += model(x[place], lengths) * weights
            count[place] += weights
    return total / count


@pytest.mark.drop_in("MONAI", "SetSlidingWindowInferer: {mode} weights, sw_batch_size={batch} images, ragged sets")
@pytest.mark.parametrize("mode", ["constant", "gaussian"])
@pytest.mark.parametrize("batch", [1, 4, 100])
def test_windows_of_sets_equal_the_naive_loop(mode, batch):
    x, model, roi = images(), network(), (16, 20)
    starts = ([0, 8, 16, 24], [0, 10, 20, 30, 32])  # half overlap, the last window at the border
    weights = compute_importance_map(roi, mode=mode, sigma_scale=0.125, dtype=torch.float64)
    expected = naive(x, model, LENGTHS, roi, starts, weights)
    inferer = SetSlidingWindowInferer(roi, sw_batch_size=batch, overlap=0.5, mode=mode)
    torch.testing.assert_close(inferer(x, model, LENGTHS), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(inferer(x, model, sets=ik.Sets.from_lengths(LENGTHS)), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("batch", "expected"), [(1, [1, 2, 3]), (6, [6, 6, 6]), (7, [7, 6, 6])])
def test_sw_batch_size_counts_images(batch, expected):
    largest = {}

    def recording(x, sets):
        assert len(set(sets.lengths)) == 1
        largest[sets.lengths[0]] = max(largest.get(sets.lengths[0], 0), len(x))
        return x

    SetSlidingWindowInferer((16, 16), sw_batch_size=batch)(images(), recording, LENGTHS)
    assert [largest[size] for size in (1, 2, 3)] == expected


@pytest.mark.drop_in("MONAI", "SetSlidingWindowInferer equals SlidingWindowInferer where sets have one image")
@pytest.mark.parametrize(
    "options", [{}, {"padding_mode": "reflect"}, {"buffer_steps": 2}, {"cache_roi_weight_map": True}]
)
def test_sets_of_one_image_are_monais(options):
    x, model = images(height=24), network()
    arguments = {"roi_size": (32, 16), "sw_batch_size": 3, "mode": "gaussian", **options}
    expected = SlidingWindowInferer(**arguments)(x, model, 1)
    torch.testing.assert_close(SetSlidingWindowInferer(**arguments)(x, model, 1), expected)


@pytest.mark.drop_in(
    "MONAI", "SetSlidingWindowInferer: networks with several outputs (tuple, dict, another resolution)"
)
def test_structures_of_outputs():
    model, x = network(), images()

    def several(x, sets):
        y = model(x, sets)
        return {"full": y, "half": torch.nn.functional.avg_pool2d(y, 2)}

    inferer = SetSlidingWindowInferer((16, 20), sw_batch_size=6, overlap=0.5)
    found = inferer(x, several, LENGTHS)
    pair = inferer(x, lambda x, sets: tuple(several(x, sets).values()), LENGTHS)
    torch.testing.assert_close(found["full"], inferer(x, model, LENGTHS))
    assert found["half"].shape == (6, 3, 20, 26)
    assert isinstance(pair, tuple)
    assert all(torch.equal(a, b) for a, b in zip(pair, found.values(), strict=True))


@pytest.mark.drop_in("MONAI", "SetSlidingWindowInferer keeps the metadata of MetaTensor, also through decollate_batch")
def test_metadata_is_kept():
    x = MetaTensor(images(), meta={"name": list("abcdef")})
    x.is_batch = True
    y = SetSlidingWindowInferer((16, 16))(x, network(), LENGTHS)
    assert isinstance(y, MetaTensor)
    assert [sample.meta["name"] for sample in decollate_batch(y)] == list("abcdef")


@pytest.mark.drop_in("MONAI", "SetSlidingWindowInferer with MONAI's UNet after surgery")
def test_monais_unet():
    torch.manual_seed(0)
    plain = UNet(2, 2, 3, channels=(4, 8), strides=(2,), num_res_units=1, norm="instance").double().eval()
    model = ik.SetModel(plain)
    ik.replace_with_interconv(plain)
    with torch.no_grad():
        for layer in plain.modules():
            if isinstance(layer, ik.InterConv2d):
                layer.weight.normal_(std=0.2)
        x, weights = images(height=32, width=32), torch.ones(16, 16, dtype=torch.float64)
        expected = naive(x, model, LENGTHS, (16, 16), ([0, 16], [0, 16]), weights)
        found = SetSlidingWindowInferer((16, 16), 4, overlap=0)(x, model, LENGTHS)
    torch.testing.assert_close(found, expected)


def within_sets(x, model):
    with ik.use_sets(2):
        return sliding_window_inference(x, (16, 16), 6, model.network)


def slices(x, model):
    inferer = SliceInferer(spatial_dim=0, roi_size=(16, 16), sw_batch_size=6)
    return inferer(x.unsqueeze(2), lambda windows: model(windows, 2))


def paper_network(x, _):
    model = interconv_seg.build("simpleunet", "replace", in_channels=2, features=2, classes=2).double()
    return SlidingWindowInferer((16, 16), 6)(x, model, 2)


def set_mean(x, _):
    return SlidingWindowInferer((16, 16), 6)(x, lambda windows: ik.set_mean(windows, 2))


def concat_set_mean(x, _):
    return SlidingWindowInferer((16, 16), 6)(x, lambda windows: ik.concat_set_mean(windows, 2))


def decomposed(x, model):
    for layer in (model.network[0], model.network[2]):
        layer.algorithm = "decomposed"
    return SlidingWindowInferer((16, 16), 6)(x, model, 2)


def compiled(x, model):
    return SlidingWindowInferer((16, 16), 6)(x, torch.compile(model, backend="aot_eager", dynamic=True), 2)


def compiled_as_on_a_gpu(x, model):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choice, "TRACED_DEVICES", ("cpu",))
        return compiled(x, model)


WAYS = {
    "SlidingWindowInferer with sets as an argument": lambda x, m: SlidingWindowInferer((16, 16), 6)(x, m, 2),
    "SlidingWindowInferer with a lambda": lambda x, m: SlidingWindowInferer((16, 16), 4)(x[:1], lambda w: m(w, 4)),
    "sliding_window_inference in use_sets": within_sets,
    "SliceInferer": slices,
    "a layer with sets": lambda x, m: SlidingWindowInferer((16, 16), 6)(x, m.network[0], 2),
    "a network of interconv_seg": paper_network,
    "set_mean": set_mean,
    "concat_set_mean": concat_set_mean,
    'algorithm="decomposed"': decomposed,
    "torch.compile": compiled,
    "torch.compile, in the form for GPUs": compiled_as_on_a_gpu,
}


@pytest.mark.drop_in(
    "MONAI", "its own sliding windows with sets are refused: {way}", limitation="use SetSlidingWindowInferer"
)
@pytest.mark.parametrize("way", WAYS)
def test_monais_own_windows_are_refused(way):
    with pytest.raises(ValueError, match=r"windows that MONAI's sliding_window_inference cut.*SetSlidingWindowInferer"):
        WAYS[way](images(), network())


def test_the_stack_is_searched_once_and_after_each_inference(monkeypatch):
    searched, original = [], _sliding_windows._running
    monkeypatch.setattr(_sliding_windows, "_running", lambda monai: searched.append(1) or original(monai))
    x, model, inferer = images(), network(), SlidingWindowInferer((16, 16), 6)
    model(x, LENGTHS)
    searched.clear()
    for _ in range(3):
        model(x, LENGTHS)
    assert not searched
    for _ in range(2):
        inferer(x, model, 1)
        searched.clear()
        model(x, LENGTHS)
        assert len(searched) == 1  # two layers
        with ThreadPoolExecutor(1) as thread, pytest.raises(ValueError, match="6 samples are windows"):
            thread.submit(inferer, x, model, 2).result()
        with pytest.raises(ValueError, match="6 samples are windows"):
            inferer(x, model, 2)


def test_each_call_searches_the_stack_if_inference_cannot_be_noticed(monkeypatch):
    """Of a MONAI whose function has no such step, or where the step was replaced since."""
    x, model = images(), network()
    model(x, LENGTHS)
    monkeypatch.setattr(monai.inferers.utils, "dense_patch_slices", dense_patch_slices)
    for step in ("dense_patch_slices", "another_name"):
        monkeypatch.setattr(_sliding_windows, "STEP", step)
        model(x, LENGTHS)
        with pytest.raises(ValueError, match="6 samples are windows"):
            SlidingWindowInferer((16, 16), 6)(x, model, 2)


@pytest.mark.drop_in("MONAI", "its own sliding windows are accepted where they form sets")
def test_monais_own_windows_where_they_are_right():
    x, model = images(), network()
    whole = model(x, LENGTHS)
    torch.testing.assert_close(SlidingWindowInferer((40, 52), sw_batch_size=6)(x, model, LENGTHS), whole)
    torch.testing.assert_close(SlidingWindowInferer((64, 64), 6)(x, model, [6]).shape, whole.shape)
    single = torch.cat([model(x[i : i + 1], 1) for i in range(6)])
    torch.testing.assert_close(SlidingWindowInferer((40, 52), sw_batch_size=4)(x, model, 1), single)
    with pytest.raises(ValueError, match="4 samples are windows"):
        SlidingWindowInferer((40, 52), sw_batch_size=4)(x, model, 2)


@pytest.mark.drop_in("MONAI", "PatchInferer with batch_size=1 cuts the same patch from all images")
def test_patch_inferer():
    x, model = images(height=32, width=32), network()
    expected = naive(x, model, LENGTHS, (16, 16), ([0, 16], [0, 16]), torch.ones(16, 16, dtype=torch.float64))
    found = PatchInferer(SlidingWindowSplitter((16, 16)), batch_size=1)(x, model, LENGTHS)
    torch.testing.assert_close(found.double(), expected)  # it stitches in float32
    with pytest.raises(ValueError, match="sum to 6"):
        PatchInferer(SlidingWindowSplitter((16, 16)), batch_size=2)(x, model, LENGTHS)


def test_wrong_input():
    inferer, x, model = SetSlidingWindowInferer((16, 16)), images(), network()
    with pytest.raises(ValueError, match="sum to 5"):
        inferer(x, model, [2, 3])
    with pytest.raises(TypeError, match="sets = None"):
        inferer(x, model, None)
    with pytest.raises(ValueError, match="at least one image"):
        inferer(x[:0], model, [])
    with pytest.raises(ValueError, match="with_coord"):
        SetSlidingWindowInferer((16, 16), with_coord=True)
