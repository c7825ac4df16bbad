"""Promise 7: wrong input raises ValueError or TypeError that shows the offending value and what was expected."""

import numpy as np
import pytest
import torch
from torch import nn

import interconv_kernels as ik

U = torch.randn(6, 3, 9, 7)
WEIGHT = torch.randn(4, 6, 3, 3)


def refused(error, *words):
    """The error, with all of these words in its message."""
    return pytest.raises(error, match="".join(f"(?=.*{word})" for word in words))


@pytest.mark.parametrize(
    ("lengths", "error", "words"),
    [
        ([2, -1], ValueError, [r"lengths\[1\] = -1", ">= 0"]),
        ([2, 1.0], TypeError, [r"lengths\[1\] = 1.0", "integer"]),
        ([True, 2], TypeError, ["True", "integer"]),
        (["2"], TypeError, ["'2'", "integer"]),
        ([[1, 2]], TypeError, [r"\[1, 2\]", "integer"]),
        (torch.tensor([1.0]), TypeError, ["float32", "integers"]),
        (torch.tensor([[1]]), TypeError, [r"\(1, 1\)", "integers"]),
        (np.array([1.5]), TypeError, ["1.5", "integer"]),
        (7, TypeError, ["7", "sequence"]),
        ([2**31 - 1, 1], ValueError, ["2147483648", "int32"]),
    ],
)
def test_lengths(lengths, error, words):
    with refused(error, *words):
        ik.Sets.from_lengths(lengths)


@pytest.mark.parametrize(
    ("offsets", "error", "words"),
    [
        ([0, 3, 2, 6], ValueError, ["decrease from 3 to 2", "index 2"]),
        ([1, 6], ValueError, [r"\[1, 6\]", "starting with 0"]),
        ([], ValueError, [r"B\+1"]),
        ([0, 5], ValueError, ["end at 5", "N = 6"]),
        ([0, 2.5, 6], TypeError, ["2.5", "integer"]),
        (torch.tensor([0.0, 6.0]), TypeError, ["float32"]),
    ],
)
def test_offsets(offsets, error, words):
    with refused(error, *words):
        ik.Sets.from_offsets(offsets, num_samples=6)


@pytest.mark.parametrize(
    ("sets", "error", "words"),
    [
        (4, ValueError, ["4 does not divide", "N = 6"]),
        (0, ValueError, ["set size 0", ">= 1"]),
        (-2, ValueError, ["set size -2"]),
        ([2, 3], ValueError, [r"\[2, 3\]", "sum to 5", "N = 6"]),
        (torch.tensor([0, 7]), ValueError, ["end at 7", "N = 6"]),
        (ik.Sets.from_lengths([5]), ValueError, ["holds 5", "N = 6"]),
        (ik.Sets.from_lengths([6]).to("meta"), ValueError, ["meta", "cpu", "device"]),
        (None, ValueError, ["sets is None", "packed"]),
        (2.0, TypeError, ["2.0", "one int"]),
        (True, TypeError, ["True"]),
        ("3", TypeError, ["'3'"]),
        (object(), TypeError, ["object"]),
    ],
)
def test_sets(sets, error, words):
    with refused(error, *words):
        ik.interconv2d(U, WEIGHT, None, sets)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"u": U[:, :2]}, ValueError, [r"\(4, 6, 3, 3\)", r"\[Co, 4, kh, kw\]"]),
        ({"u": U[0]}, ValueError, [r"\(3, 9, 7\)", "packed"]),
        ({"u": U.long()}, TypeError, ["int64", "float32"]),
        ({"u": U.to(torch.complex64)}, TypeError, ["complex64"]),
        ({"u": U.double()}, TypeError, ["weight has dtype torch.float32", "float64"]),
        ({"u": U.to("meta"), "sets": ik.Sets.from_lengths([6]).to("meta")}, ValueError, ["weight is on cpu", "meta"]),
        ({"weight": WEIGHT[0]}, ValueError, [r"\(6, 3, 3\)"]),
        ({"bias": torch.zeros(3)}, ValueError, ["bias", r"\(3,\)", r"\[4\]"]),
        ({"bias": torch.zeros(4).half()}, TypeError, ["bias", "float16"]),
        ({"weight": torch.randn(4, 6, 2, 3)}, ValueError, [r"\(2, 3\)", "odd"]),
        ({"padding": "valid"}, ValueError, ["'valid'", "same"]),
        ({"padding": -1}, ValueError, ["padding = -1", "at least 0"]),
        ({"padding": 0.5}, TypeError, ["padding = 0.5"]),
        ({"stride": 0}, ValueError, ["stride = 0", "at least 1"]),
        ({"stride": (1, 2, 3)}, TypeError, [r"\(1, 2, 3\)", "height, width"]),
        ({"dilation": True}, TypeError, ["dilation = True"]),
        ({"padding": 0, "dilation": 4}, ValueError, ["9 x 7", "too small"]),
        ({"algorithm": "splitt"}, ValueError, ["'splitt'", "'concat'", "did you mean 'split'"]),
        ({"algorithm": None}, ValueError, ["None", "'auto'"]),
        ({"backend": "trotch"}, ValueError, ["'trotch'", "did you mean 'torch'"]),
    ],
)
def test_arguments(change, error, words):
    arguments = {"u": U, "weight": WEIGHT, "bias": None, "sets": [6], **change}
    with refused(error, *words):
        ik.interconv2d(**arguments)


def test_dense_and_nested_input():
    with refused(ValueError, r"\(2, 3, 3, 9, 7\)", "sets were given too"):
        ik.interconv2d(U.unflatten(0, (2, 3)), WEIGHT, None, [3, 3])
    jagged = torch.nested.nested_tensor_from_jagged(U, offsets=torch.tensor([0, 6]))
    with refused(ValueError, "nested", "sets were given too"):
        ik.interconv2d(jagged, WEIGHT, None, [6])
    with refused(ValueError, "holes"):
        ik.interconv2d(
            torch.nested.nested_tensor_from_jagged(U, offsets=torch.tensor([0, 6]), lengths=torch.tensor([4])), WEIGHT
        )
    with refused(ValueError, "jagged"):
        ik.interconv2d(torch.nested.nested_tensor([torch.randn(2, 3, 9, 7)]), WEIGHT)


@pytest.mark.parametrize("function", [ik.set_mean, ik.concat_set_mean])
def test_set_operations(function):
    with refused(TypeError, "int64"):
        function(U.long(), [6])
    with refused(TypeError, r"\(6,\)"):
        function(torch.zeros(6), [6])
    with refused(ValueError, "sum to 5"):
        function(U, [5])
    with refused(ValueError, "'cpu'", "expected one of"):
        function(U, [6], backend="cpu")


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"in_channels": 0}, ValueError, ["0", "at least 1"]),
        ({"in_channels": 2.0}, TypeError, ["2.0"]),
        ({"in_channels": 2, "out_channels": -1}, ValueError, ["-1"]),
        ({"in_channels": 2, "kernel_size": 4}, ValueError, [r"\(4, 4\)", "odd"]),
        ({"in_channels": 2, "kernel_size": 0}, ValueError, ["kernel_size = 0"]),
        ({"in_channels": 2, "stride": 0}, ValueError, ["stride = 0"]),
        ({"in_channels": 2, "algorithm": "fast"}, ValueError, ["'fast'"]),
        ({"in_channels": 2, "backend": "touch"}, ValueError, ["'touch'", "'torch'"]),
    ],
)
def test_module_arguments(arguments, error, words):
    with refused(error, *words):
        ik.InterConv2d(**arguments)


def test_even_kernels_are_fine_with_numbers():
    module = ik.InterConv2d(3, kernel_size=2, padding=1, dtype=torch.float64)
    want = ik.reference.interconv(U.double(), module.weight, module.bias, [6], padding=1)
    torch.testing.assert_close(module(U.double(), [6]), want)


def test_use_sets_and_surgery():
    with refused(TypeError, "None"):
        ik.use_sets(None)
    net = nn.Sequential(nn.Linear(2, 2))
    with refused(ValueError, "nothing to change in Sequential"):
        ik.replace_with_interconv(net)
    with refused(ValueError, "0: ReLU is none of"):
        ik.replace_with_interconv(nn.Sequential(nn.ReLU()), "0")
    with refused(ValueError, "0: ReLU does not tell"):
        ik.append_interconv(nn.Sequential(nn.ReLU()), nn.ReLU)
    with refused(TypeError, "3", "types, name patterns"):
        ik.replace_with_interconv(net, 3)
    with refused(ValueError, "odd"):
        ik.append_interconv(nn.Sequential(nn.Conv2d(1, 2, 3)), kernel_size=2)
    with refused(ValueError, "'splt'", "'split'"):
        ik.replace_with_interconv(nn.Sequential(nn.Conv2d(1, 2, 3)), algorithm="splt")


def test_backends_report():
    report = ik.backends()
    assert report["torch"]["cpu"] == "ready"
    assert report["torch"]["version"] == torch.__version__
    assert "cuda" in report["torch"]


def test_an_automatic_choice_logs_its_reason_once(monkeypatch, caplog):
    from interconv_kernels._backends.registry import TorchBackend, get

    class Broken(TorchBackend):
        name = "broken"

        def can_run(self, device):
            return "it is broken"

    working = TorchBackend()
    monkeypatch.setattr("interconv_kernels._backends.registry.BACKENDS", {"broken": Broken(), "torch": working})
    cpu = torch.device("cpu")
    with caplog.at_level("INFO", logger="interconv_kernels"):
        assert get("auto", cpu) is working
        assert get("auto", cpu) is working
    assert [r.getMessage() for r in caplog.records] == ["backend 'broken' is not used on cpu: it is broken"]
    with refused(ValueError, "'broken' cannot run on cpu", "it is broken"):
        get("broken", cpu)


@pytest.mark.parametrize(
    ("slope", "error", "words"),
    [
        ("relu", TypeError, ["'relu'", "a number, a tensor or None"]),
        (True, TypeError, ["True", "a number"]),
        (torch.ones(3), ValueError, [r"\(3,\)", r"\[4\]"]),
        (torch.ones(4, device="meta"), ValueError, ["meta", "cpu"]),
    ],
)
def test_negative_slope(slope, error, words):
    with refused(error, *words):
        ik.interconv2d(U, WEIGHT, None, [6], negative_slope=slope)


def test_activation_of_a_module():
    with refused(TypeError, "GELU", "nn.ReLU, nn.LeakyReLU, nn.PReLU or None"):
        ik.InterConv2d(3, activation=torch.nn.GELU())


@pytest.mark.parametrize("backend", ["torch", "cpp"])
def test_fused_where_there_is_none(backend):
    if ik.backends()[backend]["cpu"] != "ready":
        pytest.skip(ik.backends()[backend]["cpu"])
    with refused(ValueError, "'fused' cannot run here", f"backend '{backend}'"):
        ik.interconv2d(U, WEIGHT, None, [6], stride=2, algorithm="fused", backend=backend)
