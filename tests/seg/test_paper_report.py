"""The paper's tables and figures from small untrained runs."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from interconv_seg import plots
from interconv_seg.checkpoints import save_checkpoint
from interconv_seg.cli import main
from interconv_seg.evaluation import evaluate
from interconv_seg.paper.figures import close_up_box
from interconv_seg.paper.items import FIGURES, TABLES
from interconv_seg.paper.models import baseline_of, find_models
from interconv_seg.paper.results import Results, best
from PIL import Image
from seg_common import BINARY, CLASSES, SMALL

NAMES = {"simpleunet": "SimpleUNet", "nnunet": "nnUNet", "swinunet": "SwinUNet"}


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Two data sets of 10 subjects with 1 or 2 images, and runs: each architecture with and without InterConv."""
    work = tmp_path_factory.mktemp("report")
    random = np.random.default_rng(0)
    for name in ("one", "two"):
        (work / name).mkdir()
        lines = ["set,image,mask"]
        for i in range(15):
            mask = random.integers(0, 3, (16, 16), dtype=np.uint8)
            Image.fromarray(mask).save(work / name / f"m{i}.png")
            Image.fromarray(60 * mask + random.integers(0, 60, (16, 16), dtype=np.uint8)).save(work / name / f"{i}.png")
            lines.append(f"s{i % 10},{i}.png,m{i}.png")
        (work / name / "sets.csv").write_text("\n".join(lines) + "\n")
    for family in NAMES:
        for placement in (None, "replace"):
            config = replace(CLASSES, network=family, interconv=placement, features=SMALL[family], set_sizes=None)
            for seed in (0, 1) if family == "simpleunet" else (0,):
                write_run(work / f"{family}_{placement}{seed}", replace(config, data=(str(work / "one"),), seed=seed))
    for placement in (None, "replace"):
        write_run(work / f"clicks_{placement}", replace(BINARY, interconv=placement, data=(str(work / "one"),)))
    return work


def write_run(folder, config):
    config.write(folder)
    save_checkpoint(folder / "best.pt", {"network": config.new_network().state_dict()})
    (folder / "metrics.csv").write_text("step,validation_loss,validation_dice\n1,0.5,0.5\n")


def runs(work, *names):
    return [str(folder) for name in names for folder in sorted(work.glob(f"{name}_*"))]


def report(*arguments):
    return main(["report", "--device", "cpu", *map(str, arguments)])


def test_tables_of_automatic_runs(work, tmp_path, capsys):
    folders = runs(work, *NAMES)
    assert report(*folders, "--table", *TABLES, "--up-to", "--out", tmp_path / "r") == 0
    out = capsys.readouterr().out
    assert {f.name for f in (tmp_path / "r").iterdir()} == {*(f"table{n}.md" for n in TABLES), "up_to.md"}
    heading = "| data | " + " | ".join(f"{n} | {n}-InterConv" for n in ("SimpleUNet", "SwinUNet", "nnUNet")) + " |"
    assert heading in out
    results = Results(find_models([work / f"simpleunet_None{seed}" for seed in (0, 1)]))
    [model] = results.models  # both seeds are one ensemble
    dice = [s.mean for s in evaluate(results.ensemble(model), results.groups(model, str(work / "one")), [None])]
    expected = f"| one | {100 * np.mean(dice):.2f} ± {100 * np.std(dice, ddof=1):.2f} |"
    assert expected in (tmp_path / "r/table1.md").read_text()
    assert "| 1 | a |" in (tmp_path / "r/table2.md").read_text()
    table3 = (tmp_path / "r/table3.md").read_text()
    assert [int(line.split("|")[3]) for line in table3.splitlines()[2:]] == [6, 2, 2]
    assert "| SimpleUNet-InterConv | 16 | 63,246 | 60K |" in (tmp_path / "r/table4.md").read_text()
    assert "39,494,249 | 34.9M *" in (tmp_path / "r/table5.md").read_text()
    assert "34,982,148 | 34.9M" in (tmp_path / "r/table6.md").read_text()
    assert "| one | 10 | 15 | 15 | 2 | 1 | 1, 2 |" in (tmp_path / "r/table8.md").read_text()


def test_figures_of_automatic_runs(work, tmp_path):
    wanted = (1, 6, 7, 8, 9, 10)
    assert report(*runs(work, *NAMES), "--figure", *wanted, "--out", tmp_path / "r") == 0
    files = sorted((tmp_path / "r").iterdir())
    assert {f.name for f in files} == {f"figure{n}.png" for n in wanted}
    assert all(f.read_bytes().startswith(b"\x89PNG") for f in files)


def test_figures_and_gains_of_interactive_runs_on_two_data_sets(work, tmp_path, capsys):
    options = ["--data", work / "one", work / "two", "--set-sizes", 1, 4, "--prompts", 1, "--prompt-seeds", 1]
    folders = runs(work, "clicks")
    assert report(*folders, *options, "--figure", 4, 5, 11, "--up-to", "--out", tmp_path / "r") == 0
    said = capsys.readouterr()
    assert "were trained on" in said.err
    assert {f.name for f in (tmp_path / "r").iterdir()} == {"figure4.png", "figure5.png", "figure11.png", "up_to.md"}
    text = (tmp_path / "r/up_to.md").read_text()
    assert "The 10 largest of 16 conditions" in text  # 2 data sets, 2 labels, 2 set sizes, 2 kinds
    gains = [float(line.split("|")[-2].split()[0]) for line in text.splitlines()[2:12]]
    assert gains == sorted(gains, reverse=True)


def test_what_cannot_be_made_says_what_it_needs(work, tmp_path, capsys):
    automatic, clicks = runs(work, "simpleunet"), runs(work, "clicks")
    for arguments, message in (
        (["--figure", 4], "Figure 4: needs runs in interactive mode of an InterConv network and of its baseline"),
        ([*automatic, "--figure", 6], "Figure 6: needs runs in automatic mode of nnUNet-InterConv and of nnUNet"),
        ([*automatic[:2], "--figure", 9], "Figure 9: needs runs"),
        ([*clicks, "--table", 1], "Table 1: needs a run in automatic mode; given: SimpleUNet"),
        ([*clicks[:1], "--up-to"], "Up to: needs runs in either mode"),
        ([], "nothing to report"),
        ([automatic[0], automatic[0], "--table", 2], "given twice"),
    ):
        assert report(*arguments, "--out", tmp_path / "r") == 2
        said = capsys.readouterr().err
        assert message in said
        assert said.count("\n") == 1
        assert not (tmp_path / "r").exists()
    damaged = tmp_path / "damaged"
    write_run(damaged, replace(CLASSES, data=(str(work / "one"),), set_sizes=None))
    (damaged / "metrics.csv").unlink()
    assert report(*automatic, damaged, "--table", 2, 1, "--out", tmp_path / "r") == 2
    assert "metrics.csv: cannot be used to choose the best size" in capsys.readouterr().err
    assert not (tmp_path / "r").exists()
    with pytest.raises(SystemExit):
        report("--figure", 2, "--out", tmp_path / "r")


def test_runs_trained_on_all_subjects_need_other_data(work, tmp_path, capsys):
    config = replace(CLASSES, data=(str(work / "one"),), validation_data=(str(work / "two"),), set_sizes=None)
    write_run(tmp_path / "run", config)
    assert report(tmp_path / "run", "--table", 1, "--out", tmp_path / "r") == 2
    assert "was trained on all subjects of its data" in capsys.readouterr().err
    assert report(tmp_path / "run", "--table", 3, "--out", tmp_path / "r") == 0
    assert "| one | train | 10 | 15 |" in (tmp_path / "r/table3.md").read_text()


def test_the_best_size_is_that_of_the_validation(tmp_path):
    for features, dice in ((2, 0.5), (4, 0.7)):
        write_run(tmp_path / f"f{features}", replace(CLASSES, features=features))
        rows = f"step,validation_loss,validation_dice\n1,0.4,{dice}\n2,0.9,0.99\n"
        (tmp_path / f"f{features}/metrics.csv").write_text(rows)
    models = find_models([tmp_path / "f2", tmp_path / "f4"])
    assert best(models).config.features == 4


def test_baselines_are_of_the_same_size_and_data(tmp_path):
    for name, options in {
        "ours": {"network": "simpleunet-60K", "interconv": "replace"},
        "same": {"network": "simpleunet-60K"},
        "larger": {"network": "simpleunet-120K"},
        "other": {"network": "simpleunet-60K", "data": ("elsewhere",)},
    }.items():
        replace(CLASSES, **{"features": None, **options}).write(tmp_path / name)
    models = find_models([tmp_path / name for name in ("ours", "larger", "other", "same")])
    assert baseline_of(models[0], models) is models[3]
    assert baseline_of(models[0], models[:3]) is models[1]  # the only one
    assert baseline_of(models[0], [models[0], models[2]]) is None


def test_close_ups_show_where_interconv_is_right_and_the_baseline_is_not():
    truth = torch.ones(2, 30, 36, dtype=torch.long)
    ours, baseline = truth.clone(), truth.clone()
    baseline[:, 12:22, 20:30] = 0
    ours[:, :10, :10] = 0
    assert close_up_box(ours, baseline, truth) == (12, 20, 10)


def test_everything_of_the_paper_is_there():
    assert set(TABLES) == set(range(1, 9))
    assert set(FIGURES) == {1, *range(4, 12)}


def test_data_sets_are_told_apart_by_name(work, tmp_path, capsys):
    write_run(tmp_path / "run", replace(CLASSES, data=(str(tmp_path / "elsewhere/one"),), set_sizes=None))
    folders = [*runs(work, "simpleunet"), tmp_path / "run"]
    assert report(*folders, "--table", 8, "--out", tmp_path / "r") == 2
    assert "has the name of" in capsys.readouterr().err
    results = Results(find_models([tmp_path / "run"]), [str(work / "one"), str(work / "two/../one")])
    assert results.data_of(results.models[0]) == [str(work / "one")]


def test_panels_that_are_not_needed_are_removed(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(plots, "save", lambda figure, path: figures.append(figure))
    plots.improvement_panels(tmp_path / "x.png", {str(i): [] for i in range(4)}, lambda axes, summaries: None)
    assert [axes.get_title() for axes in figures[0].axes] == ["0", "1", "2", "3"]
