"""The benchmark of whole networks, on small ones: what is compared is the same work, and what is wrong is refused."""

import csv
import json
import sys

import pytest
import torch

import interconv_kernels as ik
from benchmarks import networks
from benchmarks.network_forms import EagerConcat, Form, Standard, Step, Work

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
SMALL = ("simpleunet:4", "nnunet:4,6", "swinunet:6", "scribbleprompt:4")


def work(network="simpleunet:4", direction="train", layout="channels_last", lengths=(1, 2), precision="float32"):
    return Work(networks.parse_network(network), direction, layout, lengths, (32, 32), "cpu", precision)


def complaint(of_work, form):
    return Standard.of(of_work, form.plain).complaint(Step(of_work, form))


@pytest.mark.parametrize("layout", ["NCHW", "channels_last"])
@pytest.mark.parametrize("direction", ["train", "infer"])
@pytest.mark.parametrize("placement", ["replace", "append"])
@pytest.mark.parametrize("network", SMALL)
def test_ours_does_the_work_of_concat(network, placement, direction, layout):
    assert complaint(work(network, direction, layout), Form(placement, "ours")) == ""


def test_concat_has_none_of_our_layers_and_the_baseline_neither():
    def kinds(form):
        return {type(module) for module in Step(work(), form).network.modules()}

    assert {EagerConcat, ik.InterConv2d} & kinds(Form("replace", "ours")) == {ik.InterConv2d}
    assert {EagerConcat, ik.InterConv2d} & kinds(Form("replace", "concat")) == {EagerConcat}
    assert not {EagerConcat, ik.InterConv2d} & kinds(Form(None, "baseline"))


def test_a_step_is_the_same_every_time():
    step = Step(work("swinunet:6"), Form("replace", "ours"))  # with stochastic depth
    first, again = step.results(), step.results()
    for name, x in first.items():
        torch.testing.assert_close(again[name], x, rtol=0, atol=0)
    assert set(first) == {"loss", "gradients"}


@pytest.mark.parametrize("network", SMALL[:3])  # scribbleprompt has simpleunet's layers
def test_every_form_is_compiled_whole(network, monkeypatch):
    compile_with = torch.compile  # without the code generator, which takes minutes
    monkeypatch.setattr(
        torch, "compile", lambda x, fullgraph, **_: compile_with(x, backend="eager", fullgraph=fullgraph)
    )
    torch.compiler.reset()
    for layer in ("ours", "concat"):
        assert complaint(work(network), Form("replace", layer, compiled=True)) == ""


def wrong_output(y):
    return 1.01 * y


def wrong_gradient(y):
    return y + 0.05 * (y - y.detach())


def failure(y):
    raise RuntimeError("out of luck\nand more")


@on_linux
@pytest.mark.parametrize(
    ("breaking", "direction", "said"),
    [
        (wrong_output, "infer", "logits differ by"),
        (wrong_output, "train", "gradients differ by"),
        (wrong_gradient, "train", "gradients differ by"),
        (failure, "train", "RuntimeError: out of luck"),
    ],
)
def test_a_wrong_form_is_refused_and_the_others_are_measured(breaking, direction, said, tmp_path, monkeypatch, capsys):
    right = ik.InterConv2d.forward
    monkeypatch.setattr(ik.InterConv2d, "forward", lambda *arguments: breaking(right(*arguments)))
    monkeypatch.setattr(networks, "peak_memory", lambda *_: 2**20)
    assert run(tmp_path, "--directions", direction, "--placements", "replace") == 1
    assert f"refused: simpleunet:4 {direction}, channels_last, replace ours: {said}" in capsys.readouterr().out
    with (tmp_path / "results.csv").open() as file:
        assert [row["form"] for row in csv.DictReader(file)] == ["baseline", "concat"]


def test_a_gradient_may_be_wrong_where_the_loss_is_right(monkeypatch):
    right = ik.InterConv2d.forward
    monkeypatch.setattr(ik.InterConv2d, "forward", lambda *arguments: wrong_gradient(right(*arguments)))
    assert "loss" not in complaint(work(), Form("replace", "ours"))


def test_bfloat16_is_allowed_what_concat_itself_errs():
    of_work = work("nnunet:8,12", precision="bfloat16")
    allowed = Standard.of(of_work, Form("replace", "concat")).allowed
    assert all(1e-4 < error < 0.5 for error in allowed)
    assert complaint(of_work, Form("replace", "ours")) == ""


@on_linux
def test_memory_grows_with_the_images():
    form = Form("replace", "ours")
    few, many = (networks.peak_memory(work("simpleunet:16", lengths=lengths), form) for lengths in ((4,), (16, 16)))
    assert 0 < 4 * few < many


def run(out, *options):
    tiny = ["--networks", "simpleunet:4", "--size", "32", "32", "--lengths", "1", "2", "--repeats", "2"]
    return networks.main([*tiny, "--out", str(out), *options])


@on_linux
def test_command_line(tmp_path, capsys):
    assert run(tmp_path, "--layouts", "NCHW", "channels_last", "--directions", "train") == 0
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert len(rows) == 2 * 5  # layouts; the baseline, and two forms in each placement
    assert {(row["placement"], row["form"]) for row in rows} == {
        ("", "baseline"),
        *((placement, form) for placement in ("replace", "append") for form in ("ours", "concat")),
    }
    assert all(0 < row["p20"] <= row["p50"] <= row["p80"] and row["peak_bytes"] > 0 for row in rows)
    with (tmp_path / "results.csv").open() as file:
        flat = list(csv.DictReader(file))
    assert [float(row["p50"]) for row in flat] == [row["p50"] for row in rows]
    ours, concat = (next(row for row in flat if row["form"] == form) for form in ("ours", "concat"))
    assert float(ours["concat_by_this"]) == float(concat["p50"]) / float(ours["p50"])
    assert float(ours["memory_by_concat"]) == int(ours["peak_bytes"]) / int(concat["peak_bytes"])
    assert float(ours["time_by_baseline"]) == float(ours["p50"]) / float(flat[0]["p50"])
    assert "simpleunet:4, train: sets of 1+2 images of 32x32, NCHW" in capsys.readouterr().out


@pytest.mark.parametrize(
    "options",
    [("--networks", "simpleunet"), ("--networks", "simpleunet:x"), ("--networks", "unet:4"), ("--lengths", "0")],
)
def test_what_makes_no_sense_is_said(options, capsys):
    with pytest.raises(SystemExit) as exit_:
        networks.parse(options)
    assert exit_.value.code == 2
    assert repr(options[1]) in capsys.readouterr().err


def test_tf32_is_off_by_switches_that_torch_can_read():
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    try:
        networks.use_float32()
        assert not torch.backends.cudnn.allow_tf32  # raises where the newer switches differ
        assert not torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def test_networks_are_the_papers_by_name():
    assert networks.parse_network("nnunet-20M").interconv == (23, 46, 92, 184, 368, 368)
    assert networks.parse_network("swinunet:6").baseline == 6
