"""ONNX: every network of the paper with any number of images and sets, in ONNX Runtime and OpenVINO."""

import numpy as np
import onnxruntime
import pytest
import torch
from interconv_seg import build
from interconv_seg.networks import FAMILIES
from torch.export import Dim

import interconv_kernels as ik
from interconv_kernels.reference import relative_error

FEATURES = {"simpleunet": 6, "nnunet": (4, 6, 8), "swinunet": 6, "scribbleprompt": 6}
BATCHES = ([4, 1, 5], [3, 3], [1], [2] * 9)
SIZES = ((64, 96), (50, 70), (33, 80))


def dynamic_shapes(sizes=True):
    """N, H, W (unless `sizes` is false) and the number of sets."""
    n, b = Dim("n", min=1), Dim("b", min=2)
    x = {0: n, 2: Dim("h", min=2), 3: Dim("w", min=2)} if sizes else {0: n}
    return [x, [{0: b}, {0: n}, {0: b}, {0: n}]]


def save(model, x, path, sizes=True):
    sets = ik.Sets.from_lengths([2, x.shape[0] - 2])
    program = torch.onnx.export(model, (x, sets), dynamo=True, dynamic_shapes=dynamic_shapes(sizes), verbose=False)
    program.save(path)


class Session:
    """A file in ONNX Runtime, called as the network is."""

    def __init__(self, path):
        self.session = onnxruntime.InferenceSession(path)

    def __call__(self, x, sets):
        tensors = (x, sets.offsets, sets.set_ids, sets.live_offsets, sets.live_ids)
        names = [put.name for put in self.session.get_inputs()]
        return torch.from_numpy(self.session.run(None, {n: t.numpy() for n, t in zip(names, tensors, strict=True)})[0])


@pytest.mark.drop_in("ONNX Runtime", "{name}, {placement}: any number of images and sets, any H and W")
@pytest.mark.parametrize("placement", ["replace", "append"])
@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n == "swinunet")) for n in FAMILIES])
def test_networks(name, placement, tmp_path):
    channels = 3 if name == "scribbleprompt" else 1
    torch.manual_seed(0)
    network = build(name, placement, features=FEATURES[name], in_channels=channels, classes=3).eval()
    any_size = name != "swinunet"  # its windows follow from H and W
    with torch.no_grad():
        save(network, torch.randn(5, channels, 64, 96), tmp_path / "network.onnx", any_size)
        session = Session(tmp_path / "network.onnx")
        for height, width in SIZES if any_size else SIZES[:1]:
            for lengths in BATCHES:
                x, sets = torch.randn(sum(lengths), channels, height, width), ik.Sets.from_lengths(lengths)
                assert relative_error(session(x, sets), network(x, sets)) < 1e-5


class Everything(torch.nn.Module):
    """Layers with other settings than those of the networks, and the set operations."""

    def __init__(self):
        super().__init__()
        act = torch.nn.PReLU()
        self.layers = torch.nn.ModuleList(
            [
                ik.InterConv2d(4, 6, stride=2, activation=act),
                ik.InterConv2d(6, 4, (1, 3), dilation=(1, 2), bias=False, algorithm="concat"),
                ik.InterConv2d(4, 4, 2, padding=0, activation=torch.nn.LeakyReLU(0.1), algorithm="fused"),
            ]
        )

    def forward(self, x, sets):
        for layer in self.layers:
            x = layer(x, sets)
        x = ik.concat_set_mean(x, sets)
        return x - ik.set_mean(x, sets).mean(0)


@pytest.mark.drop_in("ONNX Runtime", "other settings of the layer, set operations")
def test_layers_and_set_operations(tmp_path):
    model, reference = Everything().eval(), Everything().eval()
    reference.load_state_dict(model.state_dict())
    for layer in reference.layers:
        layer.algorithm = "auto"
    with torch.no_grad():
        save(model, torch.randn(5, 4, 16, 20), tmp_path / "model.onnx")
        session = Session(tmp_path / "model.onnx")
        for lengths in BATCHES:
            x, sets = torch.randn(sum(lengths), 4, 17, 20), ik.Sets.from_lengths(lengths)
            assert relative_error(session(x, sets), reference(x, sets)) < 1e-5


def test_openvino(tmp_path):
    openvino = pytest.importorskip("openvino", reason="openvino is no requirement of the integrations")
    model = Everything().eval()
    x, sets = torch.randn(10, 4, 17, 20), ik.Sets.from_lengths([4, 1, 5])
    tensors = [t.numpy() for t in (x, sets.offsets, sets.set_ids, sets.live_offsets, sets.live_ids)]
    with torch.no_grad():
        save(model, torch.randn(5, 4, 16, 20), tmp_path / "model.onnx")
        for layer in model.layers:
            layer.algorithm = "auto"
        settings = {"INFERENCE_PRECISION_HINT": "f32"}  # by default bfloat16, where the CPU has it
        compiled = openvino.Core().compile_model(str(tmp_path / "model.onnx"), "CPU", settings)
        [got] = compiled(dict(zip(compiled.inputs, tensors, strict=True))).values()
        assert relative_error(torch.from_numpy(np.array(got)), model(x, sets)) < 1e-5
