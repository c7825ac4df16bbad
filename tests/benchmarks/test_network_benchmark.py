"""The benchmark of whole networks, on small ones: all do the same work, and wrong results are not measured."""

import csv
import sys

import pytest
import torch

import interconv_kernels as ik
from benchmarks import networks
from benchmarks.check import describe_errors
from benchmarks.network_implementations import ALLOWED, NetworkImplementation, Step, Workload, expect
from benchmarks.results import read_results
from interconv_kernels.reference import ConcatInterConv2d

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
SMALL = ("simpleunet:4", "nnunet:4,6", "swinunet:6", "scribbleprompt:4")


def make_workload(
    network="simpleunet:4", direction="train", memory_format="channels_last", lengths=(1, 2), precision="float32"
):
    return Workload(networks.parse_network(network), direction, memory_format, lengths, (32, 32), "cpu", precision)


OURS, CONCAT = (NetworkImplementation("replace", layers) for layers in ("ours", "concat"))


def errors_of(workload, implementation=OURS):
    return describe_errors(Step(workload, implementation).results, expect(workload, implementation.reference))


@pytest.mark.parametrize("memory_format", ["contiguous", "channels_last"])
@pytest.mark.parametrize("direction", ["train", "infer"])
@pytest.mark.parametrize("placement", ["replace", "append"])
@pytest.mark.parametrize("network", SMALL)
def test_ours_computes_the_same_as_concat(network, placement, direction, memory_format):
    workload = make_workload(network, direction, memory_format)
    assert errors_of(workload, NetworkImplementation(placement, "ours")) == ""


def test_each_implementation_has_its_own_layers():
    def layers(implementation):
        modules = {type(module) for module in Step(make_workload(), implementation).network.modules()}
        return modules & {ConcatInterConv2d, ik.InterConv2d}

    assert layers(OURS) == {ik.InterConv2d}
    assert layers(CONCAT) == {ConcatInterConv2d}
    assert layers(NetworkImplementation(None, "baseline")) == set()


@pytest.mark.parametrize("direction", ["train", "infer"])
def test_unmerged_activations_are_modules_of_their_own(direction):
    def count(implementation):
        modules = list(Step(make_workload(direction=direction), implementation).network.modules())
        merged = sum(isinstance(m, ik.InterConv2d) and m.activation is not None for m in modules)
        return merged, sum(isinstance(m, torch.nn.PReLU) for m in modules)

    unmerged = OURS._replace(layers="ours-unmerged")
    assert count(OURS) == (9, 9)
    assert count(unmerged) == (0, 9)
    assert errors_of(make_workload(direction=direction), unmerged) == ""


def test_a_step_is_the_same_every_time():
    step = Step(make_workload("swinunet:6"), OURS)  # has stochastic depth
    first, again = step.results(), step.results()
    for name, x in first.items():
        torch.testing.assert_close(again[name], x, rtol=0, atol=0)
    assert set(first) == {"loss", "gradients"}


@pytest.mark.parametrize("network", SMALL[:3])  # scribbleprompt has simpleunet's layers
def test_every_implementation_is_compiled_without_graph_breaks(network, monkeypatch):
    compile_with = torch.compile  # without the code generator, which takes minutes
    monkeypatch.setattr(
        torch, "compile", lambda x, fullgraph, **_: compile_with(x, backend="eager", fullgraph=fullgraph)
    )
    torch.compiler.reset()
    for implementation in (OURS, CONCAT):
        assert errors_of(make_workload(network), implementation._replace(compiled=True)) == ""


def wrong_output(y):
    return 1.01 * y


def wrong_gradient(y):
    return y + 0.05 * (y - y.detach())


def fails(y):
    raise RuntimeError("out of memory\nand more")


@on_linux
@pytest.mark.parametrize(
    ("breaking", "direction", "message"),
    [
        (wrong_output, "infer", "logits has a relative error of"),
        (wrong_output, "train", "gradients has a relative error of"),
        (wrong_gradient, "train", "gradients has a relative error of"),
        (fails, "train", "RuntimeError: out of memory"),
    ],
)
def test_a_wrong_implementation_is_reported_and_the_others_are_measured(
    breaking, direction, message, tmp_path, monkeypatch, capsys
):
    right = ik.InterConv2d.forward
    monkeypatch.setattr(ik.InterConv2d, "forward", lambda *arguments: breaking(right(*arguments)))
    monkeypatch.setattr(networks, "peak_memory", lambda *_: 2**20)
    assert run(tmp_path, "--directions", direction, "--placements", "replace") == 1
    assert f"simpleunet:4 replace 1+2 32x32 {direction}, channels_last, ours: {message}" in capsys.readouterr().out
    with (tmp_path / "results.csv").open() as file:
        assert [row["implementation"] for row in csv.DictReader(file)] == ["baseline", "concat"]


def test_a_gradient_may_be_wrong_where_the_loss_is_right(monkeypatch):
    right = ik.InterConv2d.forward
    monkeypatch.setattr(ik.InterConv2d, "forward", lambda *arguments: wrong_gradient(right(*arguments)))
    assert "loss" not in errors_of(make_workload())


def test_bfloat16_allows_the_error_of_concat_itself():
    workload = make_workload("nnunet:8,12", precision="bfloat16")
    allowed = expect(workload, CONCAT).allowed
    assert all(ALLOWED[name] < error < 0.5 for name, error in allowed.items())
    assert errors_of(workload) == ""


@on_linux
def test_memory_grows_with_the_images():
    workloads = [make_workload("simpleunet:16", lengths=lengths) for lengths in ((4,), (16, 16))]
    few, many = (networks.peak_memory(workload, OURS) for workload in workloads)
    assert 0 < 4 * few < many


def run(out, *options):
    tiny = ["--networks", "simpleunet:4", "--size", "32", "32", "--lengths", "1", "2", "--repeats", "2"]
    return networks.main([*tiny, "--out", str(out), *options])


@on_linux
def test_command_line(tmp_path, capsys):
    assert run(tmp_path, "--memory-formats", "contiguous", "channels_last", "--directions", "train") == 0
    rows = read_results(tmp_path).measurements
    assert len(rows) == 2 * 5  # memory formats; the baseline, and two implementations in each placement
    assert {(row.details["placement"], row.implementation) for row in rows} == {
        ("", "baseline"),
        *((placement, layers) for placement in ("replace", "append") for layers in ("ours", "concat")),
    }
    assert all(0 < row.p20 <= row.p50 <= row.p80 and row.peak_bytes > 0 for row in rows)
    with (tmp_path / "results.csv").open() as file:
        flat = list(csv.DictReader(file))
    assert [float(row["p50"]) for row in flat] == [row.p50 for row in rows]
    ours, concat = (next(row for row in flat if row["implementation"] == name) for name in ("ours", "concat"))
    assert float(ours["speedup_over_concat"]) == float(concat["p50"]) / float(ours["p50"])
    assert float(ours["memory_over_concat"]) == int(ours["peak_bytes"]) / int(concat["peak_bytes"])
    assert float(ours["time_over_baseline"]) == float(ours["p50"]) / float(flat[0]["p50"])
    assert "simpleunet:4, train: sets of 1+2 images of 32x32, contiguous" in capsys.readouterr().out


@pytest.mark.parametrize(
    "options",
    [("--networks", "simpleunet"), ("--networks", "simpleunet:x"), ("--networks", "unet:4"), ("--lengths", "0")],
)
def test_options_that_do_not_fit(options, capsys):
    with pytest.raises(SystemExit) as exit_:
        networks.parse(options)
    assert exit_.value.code == 2
    assert repr(options[1]) in capsys.readouterr().err


def test_tf32_is_disabled_by_switches_that_torch_can_read():
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    try:
        networks.disable_tf32()
        assert not torch.backends.cudnn.allow_tf32  # raises if the newer switches differ
        assert not torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def test_names_of_networks():
    assert networks.parse_network("nnunet-20M").interconv == (23, 46, 92, 184, 368, 368)
    assert networks.parse_network("swinunet:6").baseline == 6
