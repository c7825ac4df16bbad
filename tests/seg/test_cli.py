"""The command `interconv`, end to end on data that the tests write."""

import csv
import json
import re
import signal
import subprocess
import sys
import time
from collections import namedtuple

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from interconv_seg import data, evaluation, inference, preparation, reports, training
from interconv_seg.checkpoints import load_checkpoint
from interconv_seg.cli import doctor, main
from interconv_seg.config import Config
from PIL import Image

import interconv_kernels as ik
from interconv_kernels import selftest

Check = namedtuple("Check", "backend algorithm dtype passed error skipped")
TINY = ["--network", "simpleunet", "--features", "2", "--size", "16x16", "--interval", "2", "--device", "cpu"]


def write_subjects(folder, count=6, values=(3, 7)):
    """Noisy discs, 20 x 24, two structures, 2 to 4 scans of each subject; the masks hold `values`."""
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[:20, :24]
    lines = ["set,image,mask"]
    for subject in range(count):
        distance = np.hypot(rows - 8 - subject % 3, columns - 12)
        mask = np.select([distance < 4, distance < 8], values, 0).astype(np.uint8)
        Image.fromarray(mask).save(folder / f"mask{subject}.png")
        for scan in range(2 + subject % 3):
            noisy = 20 * mask + random.normal(40, 8, mask.shape)
            Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / f"p{subject}_{scan}.png")
            lines.append(f"p{subject},p{subject}_{scan}.png,mask{subject}.png")
    (folder / "sets.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with data and runs: two seeds of InterConv and a baseline in automatic mode, and an interactive one."""
    work = tmp_path_factory.mktemp("cli")
    (work / "scans").mkdir()
    write_subjects(work / "scans")
    automatic = [
        "train",
        "--mode",
        "automatic",
        "--data",
        str(work / "scans"),
        *TINY,
        "--steps",
        "4",
        "--sets-per-batch",
        "2",
    ]
    assert main([*automatic, "--out", str(work / "ours"), "--seeds", "0", "1"]) == 0
    assert main([*automatic, "--out", str(work / "base"), "--interconv", "none"]) == 0
    interactive = ["train", "--mode", "interactive", "--data", str(work / "scans"), *TINY, "--steps", "2"]
    assert main([*interactive, "--sets-per-batch", "2", "--set-sizes", "1-3", "--out", str(work / "clicks")]) == 0
    return work


def says(capsys, code, *arguments):
    """Runs the command and returns its standard output, or the error message."""
    capsys.readouterr()
    try:
        found = main([str(a) for a in arguments])
    except SystemExit as stop:  # argparse
        found = stop.code
    out, err = capsys.readouterr()
    assert found == code, err
    assert "Traceback" not in out + err
    return err if code else out


def test_what_a_run_leaves(work):
    for folder in ("ours/seed0", "ours/seed1", "base/seed0", "clicks/seed0"):
        config = yaml.safe_load((work / folder / "config.yaml").read_text())
        assert config["seed"] == int(folder[-1])
        assert config["labels"] == ({} if "clicks" in folder else {3: "3", 7: "7"})
        steps = [int(row["step"]) for row in csv.DictReader((work / folder / "metrics.csv").open())]
        assert steps == ([2] if "clicks" in folder else [2, 4])
        assert list((work / folder / "tensorboard").glob("events*"))
        assert not list((work / folder).glob(".partial*"))


def test_evaluate_against_a_baseline(work, tmp_path, capsys):
    runs = [work / "ours/seed0", work / "ours/seed1", "--baseline", work / "base/seed0"]
    sizes = ["--set-sizes", "1", "2", "all"]
    out = says(capsys, 0, "evaluate", *runs, "--data", work / "scans", *sizes, "--out", tmp_path, "--device", "cpu")
    assert "| K | n | Dice [95 % CI] | SD | baseline | gain | p | 3 | 7 |" in out
    assert len(re.findall(r"^\| (1|2|all) \| 18 ", out, re.MULTILINE)) == 3  # 2 + 3 + 4 scans, twice
    wanted = {"scores.csv", "baseline_scores.csv", "summary.csv", "summary.md", "by_scans.csv", "by_scans.md"}
    pictures = {"improvement_by_set_size.png", "improvement_by_scans.png", "overlays.png"}
    assert {file.name for file in tmp_path.iterdir()} == wanted | pictures
    assert [row["scans"] for row in csv.DictReader((tmp_path / "by_scans.csv").open())] == ["2", "3", "4"]
    scores = list(csv.DictReader((tmp_path / "scores.csv").open()))
    for row in csv.DictReader((tmp_path / "summary.csv").open()):
        own = [float(score["dice"]) for score in scores if score["set_size"] == row["set_size"]]
        assert float(row["dice"]) == pytest.approx(np.mean(own))


def test_evaluate_the_test_subjects_alone(work, tmp_path, capsys):
    arguments = ["evaluate", work / "ours/seed0", "--data", work / "scans", "--out", tmp_path]
    out = says(capsys, 0, *arguments, "--part", "test")
    assert out.startswith("1 groups")
    main([str(a) for a in arguments])
    assert "were trained on" in capsys.readouterr().err


def test_evaluate_with_prompts(work, tmp_path, capsys):
    (tmp_path / "more").mkdir()
    write_subjects(tmp_path / "more", count=4)
    options = ["--set-sizes", "1", "4", "--prompts", "1", "2", "--prompt-seeds", "2", "--out", tmp_path / "out"]
    out = says(capsys, 0, "evaluate", work / "clicks/seed0", "--data", tmp_path / "more", *options)
    assert "| K | prompts | n |" in out
    assert len(re.findall(r"^\| [14] \| [12] \| 22 ", out, re.MULTILINE)) == 4  # 11 images, two labels each
    seeds = {row["seed"] for row in csv.DictReader((tmp_path / "out/scores.csv").open())}
    assert seeds == {"0", "1"}


def test_segment_keeps_the_affine_and_the_labels(work, tmp_path, capsys):
    affine = np.diag([0.7, -1.3, 3.0, 1.0])
    affine[:3, 3] = 5, -6, 7
    data = tmp_path / "patient"
    data.mkdir()
    random = np.random.default_rng(1)
    for name, shape in (("a", (18, 30, 3)), ("b", (33, 21, 2))):  # ragged, and of other sizes than in training
        volume = nib.Nifti1Image(random.normal(100, 10, shape).astype(np.int16), affine)
        volume.header.set_xyzt_units("mm")
        nib.save(volume, data / f"{name}.nii.gz")
    Image.fromarray(random.integers(0, 255, (9, 40), dtype=np.uint8)).save(data / "c.png")
    runs = [work / "ours/seed0", work / "ours/seed1"]
    out = says(capsys, 0, "segment", *runs, "--data", data, "--out", tmp_path / "masks")
    assert "6 images in 1 set (subject): 3 masks" in out
    for name, shape in (("a", (18, 30, 3)), ("b", (33, 21, 2))):
        mask = nib.load(tmp_path / f"masks/{name}.nii.gz")
        assert mask.shape == shape
        np.testing.assert_allclose(mask.affine, affine)
        assert set(np.unique(mask.dataobj)) <= {0, 3, 7}
    with Image.open(tmp_path / "masks/c.png") as mask:
        assert mask.size == (40, 9)
    assert {file.name for file in (tmp_path / "masks").iterdir()} == {"a.nii.gz", "b.nii.gz", "c.png", "labels.json"}

    says(capsys, 0, "segment", *runs, "--data", data, "--out", tmp_path / "small", "--max-set-size", "1")
    (data / "sets.csv").write_text("set,image\nx,a.nii.gz\ny,b.nii.gz\n")
    out = says(capsys, 0, "segment", *runs, "--data", data, "--out", tmp_path / "sets")
    assert "5 images in 2 sets (subject): 2 masks" in out


def test_segment_divides_large_sets(work, tmp_path, monkeypatch, capsys):
    from interconv_seg.inference import Ensemble

    seen = []
    probabilities = Ensemble.probabilities
    monkeypatch.setattr(
        Ensemble, "probabilities", lambda self, batch: seen.append(batch.sets.lengths) or probabilities(self, batch)
    )
    for maximum, lengths in (("9", [(2,), (3,), (4,)]), ("3", [(2,), (3,), (3,), (1,)])):
        (tmp_path / "s").mkdir(exist_ok=True)
        write_subjects(tmp_path / "s", count=3)
        seen.clear()
        data = ["--data", tmp_path / "s", "--max-set-size", maximum, "--out", tmp_path / maximum]
        says(capsys, 0, "segment", work / "ours/seed0", *data)
        assert seen == lengths


def test_segment_follows_the_rule_of_the_run(work, tmp_path, monkeypatch, capsys):
    from interconv_seg.inference import Ensemble

    seen = []
    probabilities = Ensemble.probabilities
    monkeypatch.setattr(
        Ensemble, "probabilities", lambda self, batch: seen.append(batch.sets.lengths) or probabilities(self, batch)
    )
    (tmp_path / "s").mkdir()
    write_subjects(tmp_path / "s", count=2)  # 2 + 3 images
    (tmp_path / "prompts").mkdir()
    Image.fromarray(np.eye(20, 24, dtype=np.uint8)).save(tmp_path / "prompts/p0_1.png")
    for run, options, lengths, said in (
        ("ours", [], [(2,), (3,)], "5 images in 2 sets (subject): 5 masks"),
        ("ours", ["--sets-of", "all"], [(5,)], "5 images in 1 set (all): 5 masks"),
        (
            "clicks",
            ["--prompts", tmp_path / "prompts"],
            [(3,), (2,)],
            "1 set (task), at most 3 together",
        ),
    ):
        seen.clear()
        segment = ["segment", work / run / "seed0", "--data", tmp_path / "s", "--overwrite", "--out", tmp_path / "m"]
        assert said in says(capsys, 0, *segment, *options)
        assert seen == lengths


def test_segment_from_prompts(work, tmp_path, capsys):
    (tmp_path / "s").mkdir()
    write_subjects(tmp_path / "s", count=1)
    drawn = np.zeros((20, 24), np.uint8)
    drawn[3, 5], drawn[19, 23] = 1, 2
    (tmp_path / "prompts").mkdir()
    Image.fromarray(drawn).save(tmp_path / "prompts/p0_1.png")
    arguments = ["segment", work / "clicks/seed0", "--data", tmp_path / "s", "--out", tmp_path / "m"]
    says(capsys, 0, *arguments, "--prompts", tmp_path / "prompts")
    with Image.open(tmp_path / "m/p0_0.png") as mask:
        assert set(np.unique(mask)) <= {0, 1}

    assert "interactive mode: expected prompts" in says(capsys, 2, *arguments)
    assert "no such folder" in says(capsys, 2, *arguments, "--prompts", tmp_path / "none")
    arguments += ["--prompts", tmp_path / "prompts"]
    assert "--overwrite" in says(capsys, 2, *arguments)
    Image.fromarray(drawn).save(tmp_path / "prompts/p0_9.png")
    assert "p0_9.png: is named as none of the images, expected some of p0_0.png" in says(capsys, 2, *arguments)
    (tmp_path / "prompts/p0_9.png").unlink()
    Image.fromarray(drawn + 1).save(tmp_path / "prompts/p0_1.png")
    assert "p0_1.png: holds 3" in says(capsys, 2, *arguments, "--overwrite")
    (tmp_path / "prompts/p0_1.png").unlink()
    assert "prompts: holds no prompts" in says(capsys, 2, *arguments)


def test_a_run_keeps_its_split(work, tmp_path, capsys):
    written = json.loads((work / "ours/seed0/split.json").read_text())
    assert sorted(subject for part in written["scans"].values() for subject in part) == [f"p{i}" for i in range(6)]
    train, [validation], [test] = written["scans"]["train"], written["scans"]["validation"], written["scans"]["test"]
    given = {"scans": {"train": train, "validation": [test], "test": [validation]}}
    (tmp_path / "split.json").write_text(json.dumps(given))
    task = ["--mode", "automatic", "--data", work / "scans", *TINY, "--steps", "2", "--split", tmp_path / "split.json"]
    says(capsys, 0, "train", *task, "--out", tmp_path / "runs")
    assert json.loads((tmp_path / "runs/seed0/split.json").read_text()) == given
    for run, subject in ((tmp_path / "runs/seed0", validation), (work / "ours/seed0", test)):
        says(capsys, 0, "evaluate", run, "--data", work / "scans", "--part", "test", "--out", tmp_path / "results")
        with (tmp_path / "results/scores.csv").open() as file:
            assert {row["subject"] for row in csv.DictReader(file)} == {subject}
    assert "--validation" in says(capsys, 2, "train", *task, "--out", tmp_path / "r2", "--validation", work / "scans")


def test_resume_extends_and_says_what_differs(work, tmp_path, capsys):
    (tmp_path / "s").mkdir()
    write_subjects(tmp_path / "s")
    task = ["--mode", "automatic", "--data", tmp_path / "s", *TINY]
    says(capsys, 0, "train", *task, "--steps", "2", "--out", tmp_path / "runs")
    resume = ["train", "--resume", tmp_path / "runs/seed0", "--device", "cpu"]
    message = says(capsys, 2, *resume, "--steps", "4", "--learning-rate", "0.5")
    assert "--steps 4 (the run has 2), --learning-rate 0.5 (the run has 0.001); --extend" in message
    says(capsys, 0, *resume, "--steps", "2", "--data", tmp_path / "s")
    assert "ended at step 4" in says(capsys, 0, *resume, "--extend", "2")
    assert "--extend: expected --resume" in says(capsys, 2, "train", *task, "--extend", "2", "--out", tmp_path / "r")
    Image.fromarray(np.zeros((20, 24), np.uint8)).save(tmp_path / "s/p2_1.png")
    message = says(capsys, 2, *resume, "--extend", "2")
    assert "its data are not those it began with (1 changed, such as s/p2/p2_1)" in message


def test_fine_tune_takes_the_network_of_the_run(work, tmp_path, capsys):
    task = ["--mode", "automatic", "--data", work / "scans", "--size", "16x16", "--device", "cpu", "--steps", "1"]
    tune = ["train", *task, "--fine-tune", work / "ours/seed0", "--out"]
    says(capsys, 0, *tune, tmp_path / "runs")
    config = yaml.safe_load((tmp_path / "runs/seed0/config.yaml").read_text())
    assert (config["network"], config["features"], config["interconv"]) == ("simpleunet", 2, "replace")
    assert config["initial"] == str(work / "ours/seed0")
    assert "does not fit the network" in says(capsys, 2, *tune, tmp_path / "other", "--features", "3")


def test_recipes_files_and_options_in_this_order(work, tmp_path, capsys):
    (tmp_path / "run.yaml").write_text(
        "# mine\nnetwork: simpleunet\nfeatures: 2\nsize: [16, 16]\nclip: 3.0\nsteps: 7\n"
    )
    start = ["train", "--mode", "automatic", "--data", work / "scans", "--recipe", "small", "--steps", "1"]
    says(capsys, 0, *start, "--config", tmp_path / "run.yaml", "--out", tmp_path / "r", "--device", "cpu")
    config = yaml.safe_load((tmp_path / "r/seed0/config.yaml").read_text())
    assert (config["steps"], config["clip"], config["schedule"], config["size"]) == (1, 3.0, "cosine", [16, 16])
    (tmp_path / "run.yaml").write_text("stepz: 7\n")
    message = says(capsys, 2, *start, "--config", tmp_path / "run.yaml", "--out", tmp_path / "s")
    assert "run.yaml" in message
    assert "'stepz': expected one of" in message


def test_out_of_memory_is_one_line(work, tmp_path, capsys, monkeypatch):
    def fail(self, batch):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried")

    monkeypatch.setattr(training.Training, "run_step", fail)
    task = ["--mode", "automatic", "--data", work / "scans", *TINY, "--steps", "1", "--out", tmp_path / "runs"]
    assert "out of memory" in says(capsys, 1, "train", *task)


def test_segment_never_replaces_what_it_reads(work, tmp_path, capsys):
    (tmp_path / "s").mkdir()
    write_subjects(tmp_path / "s", count=2)
    before = {file: file.read_bytes() for file in (tmp_path / "s").iterdir()}
    segment = ["segment", work / "ours/seed0", "--data", tmp_path / "s", "--out"]
    (tmp_path / "link").symlink_to(tmp_path / "s")
    for out in (tmp_path / "s", tmp_path / "link", tmp_path / "s/../s"):
        assert "the folder of the images" in says(capsys, 2, *segment, out, "--overwrite")
    (tmp_path / "m").mkdir()
    (tmp_path / "m/p1_1.png").symlink_to(tmp_path / "s/p1_1.png")
    assert "p1_1.png" in says(capsys, 2, *segment, tmp_path / "m", "--overwrite")
    assert [file.name for file in (tmp_path / "m").iterdir()] == ["p1_1.png"]
    assert {file: file.read_bytes() for file in (tmp_path / "s").iterdir()} == before


def test_prompts_models_version(work, tmp_path, capsys):
    says(capsys, 0, "prompts", "--data", work / "scans", "--label", "7", "--numbers", "2", "--out", tmp_path / "p.png")
    says(capsys, 0, "prompts", "--out", tmp_path / "simulated.png")
    for name in ("p.png", "simulated.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    out = says(capsys, 0, "models")
    assert "| simpleunet-2M | 142 | 100 |" in out
    assert "20,638,025" in out
    out = says(capsys, 0, "--version")
    assert out == f"interconv {ik.__version__}\n"


def test_doctor(capsys, monkeypatch):
    out = says(capsys, 0, "doctor")
    assert "monai" in out
    ready = [name for name, report in ik.backends().items() if report["cpu"] == "ready"]
    assert len(re.findall(r"cpu: ready; self-test passed \(relative error \de-", out)) == len(ready)

    checks = [
        Check("torch", "auto", torch.float32, True, 1e-7, ""),
        Check("cpp", "auto", torch.float32, False, 0.5, ""),
    ]
    monkeypatch.setattr(selftest, "run", lambda device, quick: iter(checks if quick else []))
    assert main(["doctor"]) == 1
    assert "self-test FAILED (relative error 5e-01)" in capsys.readouterr().out
    checks[1] = Check("cpp", "auto", torch.float32, False, 0.0, "no compiler")
    assert "self-test skipped: no compiler" in says(capsys, 0, "doctor")

    monkeypatch.setattr(doctor.metadata, "requires", lambda name: ['no-such-package>=2; extra == "seg"', "torch>=2"])
    assert main(["doctor"]) == 1
    assert "Missing: no-such-package" in capsys.readouterr().out


def test_doctor_runs_without_the_extras():
    code = (
        "import sys\nfor name in ('monai', 'matplotlib', 'tqdm', 'scipy', 'nibabel', 'tensorboard'):\n"
        "    sys.modules[name] = None\nfrom interconv_seg.cli import main\n"
        "assert main(['doctor']) == 0\nsys.exit(main(['segment', 'run', '--data', 'd', '--out', 'o']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "is not installed: pip install" in done.stderr
    assert "Traceback" not in done.stderr


def test_user_errors_are_one_line(work, tmp_path, capsys):
    scans, run = work / "scans", work / "ours/seed0"
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/x.png").write_bytes(b"no picture")
    out = ["--out", tmp_path / "out"]
    train = ["train", "--mode", "automatic", *TINY, "--steps", "2"]
    errors = {
        "config.yaml": ["segment", tmp_path, "--data", scans, *out],
        "x.png": ["segment", run, "--data", tmp_path / "broken", *out],
        "nowhere": ["evaluate", run, "--data", tmp_path / "nowhere", *out],
        "labels none": [*train, "--data", tmp_path / "broken", *out],
        "did you mean": [*train, "--data", scans, *out, "--network", "simpelunet"],
        "--resume": [*train, "--data", scans, "--out", work / "ours"],
        "expected automatic": ["evaluate", run, work / "clicks/seed0", "--data", scans, *out],
        "float16": [*train, "--data", scans, *out, "--precision", "float16"],
        "--device": ["segment", run, "--data", scans, *out, "--device", "cuda:77"],
        "expected one of: 3, 7": ["prompts", "--data", scans, "--label", "9", "--out", tmp_path / "p.png"],
        "expected no prompts": ["segment", run, "--data", scans, *out, "--prompts", tmp_path],
    }
    for words, arguments in errors.items():
        said = says(capsys, 2, *arguments)
        assert words in said, (words, said)
        assert said.count("\n") == 1, said
    (tmp_path / "file").write_text("")
    assert "file" in says(capsys, 2, "segment", run, "--data", scans, "--out", tmp_path / "file")
    assert "--mode" in says(capsys, 2, "train", "--data", scans, *out)
    assert "--sets-per-batch" in says(capsys, 2, *train, "--data", scans, *out, "--sets-per-batch", "0")


@pytest.mark.parametrize("command", ["train", "evaluate", "segment", "prompts", "models", "doctor"])
def test_help_has_an_example(command, capsys):
    assert f"example:\n  interconv {command}" in says(capsys, 0, command, "--help")


def test_the_commands_do_what_python_does(work, tmp_path, capsys):
    run, data_path = work / "ours/seed0", str(work / "scans")
    config = Config.read(run)
    groups, held_out = (preparation.load_groups(config, [data_path], part) for part in ("train", "validation"))
    batches, validation = preparation.training_batches(config, groups), preparation.validation_batches(config, held_out)
    training.train(tmp_path / "run", config, batches, validation)
    ensemble = inference.Ensemble.open([tmp_path / "run"])
    scores = evaluation.evaluate(ensemble, preparation.load_groups(config, [data_path], "test"), set_sizes=[1, None])
    table = reports.summary_markdown(reports.summarize(scores), ensemble.structures)
    options = ["--data", data_path, "--device", "cpu"]
    sizes = ["--part", "test", "--set-sizes", "1", "all", "--out", tmp_path / "results"]
    assert f"\n{table}\n" in says(capsys, 0, "evaluate", run, *options, *sizes)

    for scans in data.read(data_path).sets():
        results = inference.segment(ensemble, scans)
        data.write_masks(tmp_path / "masks", scans, [result.mask for result in results])
    says(capsys, 0, "segment", run, *options, "--out", tmp_path / "by_command")
    files = sorted(file.name for file in (tmp_path / "masks").iterdir())
    by_command = {file.name for file in (tmp_path / "by_command").iterdir()}
    assert by_command == {*files, "labels.json"}
    for name in files:
        assert (tmp_path / "masks" / name).read_bytes() == (tmp_path / "by_command" / name).read_bytes()


def test_ctrl_c_leaves_a_run_that_can_be_resumed(work, tmp_path, capsys):
    arguments = ["train", "--mode", "automatic", "--data", str(work / "scans"), *TINY, "--sets-per-batch", "2"]
    arguments += ["--interval", "10", "--steps", "100", "--out", str(tmp_path), "--augmentation", "none"]
    code = "import sys; from interconv_seg.cli import main; sys.exit(main(sys.argv[1:]))"
    child = subprocess.Popen([sys.executable, "-c", code, *arguments], stderr=subprocess.PIPE, text=True)
    metrics = tmp_path / "seed0/metrics.csv"
    while child.poll() is None and not (metrics.exists() and metrics.read_text().count("\n") > 1):
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 130, err
    assert f"interconv train --resume {tmp_path}/seed0" in err
    assert "Traceback" not in err
    reached = load_checkpoint(tmp_path / "seed0/last.pt", "cpu")["step"]
    assert 10 <= reached < 100
    out = says(capsys, 0, "train", "--resume", tmp_path / "seed0", "--device", "cpu")
    assert "ended at step 100 (the last step)" in out
    steps = [int(row["step"]) for row in csv.DictReader(metrics.open())]
    assert steps == list(range(10, 101, 10))
