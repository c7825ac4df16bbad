"""Malformed inputs of the commands: case i is a function of i alone."""

import os
import shutil
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from interconv_seg.checkpoints import save_checkpoint
from interconv_seg.cli import main
from PIL import Image
from test_cli import TINY, write_subjects


@dataclass
class Case:
    """A command on spoiled inputs.

    Attributes:
        name: what was done to what.
        command: of `interconv`, for a folder with copies of the inputs.
        wrong: whether it must be refused. False: it may also be done.
    """

    name: str
    command: list[str]
    wrong: bool


def write_inputs(folder):
    """scans/ with a sets.csv, volumes/ of nnU-Net, archive.npz, prompts/, and runs in auto/, clicks/ and vol/."""
    random = np.random.default_rng(0)
    (folder / "scans").mkdir()
    write_subjects(folder / "scans", 5)
    for kind in ("imagesTr", "labelsTr"):
        (folder / "volumes" / kind).mkdir(parents=True)
    for case in "abcde":
        image = random.normal(100, 9, (9, 8, 3)).astype(np.float32)
        image[2:6, 2:6] += 60
        save_nifti(folder / f"volumes/imagesTr/{case}_0000.nii.gz", image)
        save_nifti(folder / f"volumes/labelsTr/{case}.nii.gz", (image > 130).astype(np.uint8))
    about = '{"channel_names": {"0": "T1"}, "labels": {"background": 0, "disc": 1}, "file_ending": ".nii.gz"}'
    (folder / "volumes/dataset.json").write_text(about)
    np.savez(
        folder / "archive.npz",
        images=random.integers(0, 255, (10, 9, 8), dtype=np.uint8),
        labels=random.integers(0, 2, (10, 9, 8), dtype=np.uint8),
        ids=np.array([f"s{i // 2}/{i}" for i in range(10)]),
        label_names=np.array(["background", "disc"]),
    )
    (folder / "prompts").mkdir()
    drawn = np.zeros((20, 24), np.uint8)
    drawn[8:11, 11:14], drawn[1, 1] = 1, 2
    Image.fromarray(drawn).save(folder / "prompts/p0_0.png")
    automatic, interactive = ["--mode", "automatic"], ["--mode", "interactive"]
    runs = (("auto", automatic, "scans"), ("clicks", interactive, "scans"), ("vol", automatic, "volumes"))
    for name, mode, data in runs:
        command = ["train", *mode, "--data", str(folder / data), "--out", str(folder / name), *TINY]
        assert main([*command, "--steps", "2", "--sets-per-batch", "1"]) == 0


def save_nifti(path, array, affine=None):
    nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)


def make_case(number, folder):
    """Spoils the inputs in a folder.

    Args:
        number: of the case.
        folder: copies of the inputs, which are changed.
    """
    random = np.random.default_rng(number)
    makers = (_spoiled_file, _odd_file, _wrong_table, _wrong_option, _wrong_pair, _wrong_run, _wrong_json)
    return makers[number % len(makers)](random, folder)


def _command(kind, folder, data="scans"):
    run = {"scans": "auto", "volumes": "vol", "archive.npz": "vol"}[data]
    paths = ["--data", str(folder / data), "--out", str(folder / "out")]
    if kind == "train":
        return ["train", "--mode", "automatic", *paths, *TINY, "--steps", "1", "--sets-per-batch", "1"]
    if kind == "prompts":
        return ["segment", str(folder / "clicks/seed0"), *paths, "--prompts", str(folder / "prompts")]
    return [kind, str(folder / run / "seed0"), *paths]


def _pick(random, items):
    return items[int(random.integers(len(items)))]


def _some_file(random, folder):
    """(file, data set) of an input that the command reads."""
    name = _pick(random, ("scans", "volumes", "archive.npz"))
    if name == "archive.npz":
        return folder / name, name
    return _pick(random, sorted(file for file in (folder / name).rglob("*") if file.is_file())), name


def _spoiled_file(random, folder):
    """Truncated, with other bytes, or replaced by something else."""
    file, name = _some_file(random, folder)
    good = file.read_bytes()
    how = _pick(random, ("truncated", "bytes", "bytes", "bytes", "empty", "noise", "text", "appended"))
    if how == "truncated":
        bad = good[: random.integers(len(good))]
    elif how == "bytes":
        spoiled = bytearray(good)
        for _ in range(random.integers(1, 6)):
            spoiled[random.integers(min(len(good), 400))] = random.integers(256)
        bad = bytes(spoiled)
    else:
        bad = {
            "empty": b"",
            "noise": random.bytes(2000),
            "text": b"%PDF-1.7 not an image\n" * 20,
            "appended": good + random.bytes(50),
        }[how]
    file.write_bytes(bad)
    kind = _pick(random, ("train", "segment", "evaluate"))
    wrong = how in ("empty", "noise", "text") and kind == "evaluate"  # which reads all files
    return Case(f"{how} {file.name}", _command(kind, folder, name), wrong)


def _odd_file(random, folder):
    """A pipe, a device, a folder, a loop, nothing, or a header that announces terabytes, in place of a file."""
    name = _pick(random, ("scans", "volumes"))
    files = sorted(file for file in (folder / name).rglob("*") if file.is_file())
    file = _pick(random, files)
    how = _pick(random, ("pipe", "device", "folder", "loop", "missing", "huge"))
    file.unlink()
    if how == "pipe":
        os.mkfifo(file)
    elif how == "device":
        file.symlink_to("/dev/zero")
    elif how == "folder":
        file.mkdir()
    elif how == "loop":
        file.symlink_to(file.name)
    elif how == "huge":
        file.write_bytes(_huge_png() if file.suffix == ".png" else _huge_nifti())
    # Without a table or dataset.json, a folder may still be one of images.
    wrong = file.suffix in (".png", ".gz") and "labels" not in str(file.parent)
    kind = "train" if file.name.startswith("mask") else _pick(random, ("train", "segment", "evaluate"))
    if how == "missing" and name == "volumes":
        wrong, kind = True, "train"
    if kind == "segment" and file.name.startswith("mask"):
        wrong = False
    return Case(f"{how} for {file.name}", _command(kind, folder, name), wrong)


def _huge_png():
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 9)) + chunk(b"IEND", b"")
    )


def _huge_nifti():
    header = nib.Nifti1Header()
    header.set_data_shape((32000, 32000, 32000))
    return header.binaryblock + bytes(4)


def _wrong_table(random, folder):
    """sets.csv with rows that cannot be meant."""
    table = folder / "scans/sets.csv"
    lines = table.read_text().splitlines()
    wrong_rows = (
        "x,../../etc/passwd,",
        "x,/etc/hostname,",
        "x,nothing.png,",
        "x,p0_0.png,mask1.png",  # listed before
        "x,./p0_0.png,mask0.png",
        "x,../scans/p0_0.png,",
        "x,linked.png,",
        ",p0_0.png,mask0.png",
        "x,,mask0.png",
        "x,p0_0.png\0,",
        "x," + "p" * 5000 + ".png,",
        'x,"p0_0\n.png",',
        "x,sets.csv,",
        "x,.,",
        "x,p0_0.png,nothing.png",
        'x,"p0_0.png,mask0.png',
    )
    (folder / "scans/linked.png").symlink_to("p0_0.png")
    heads = ("set,picture,mask", "image,mask", "", "set;image;mask", "\0")
    if random.random() < 0.7:
        row = _pick(random, wrong_rows)
        lines.insert(int(random.integers(2, len(lines) + 1)), row)
        what = row[:40]
    else:
        what = lines[0] = _pick(random, heads)
    encoding = _pick(random, ("utf-8", "utf-8", "utf-8-sig"))
    table.write_text("\n".join(lines) + "\n", encoding=encoding)
    return Case(f"sets.csv: {what!r}", _command(_pick(random, ("train", "segment", "evaluate")), folder), True)


OPTIONS = {
    "train": {
        "--size": ("0x0", "-1x4", "16", "x", "9999999x9999999", "16x16x16", "1e3x16"),
        "--channels": ("0", "-3", "2", "100000", "1.5"),
        "--axis": ("up",),
        "--slices": ("some", "every:0", "every:-1", "every:", "0"),
        "--group-regex": ("(", "nobody[0-9]+", "x*"),
        "--features": ("0", "-1", "99999999"),
        "--sets-per-batch": ("0", "-1", "99999999999"),
        "--set-sizes": ("0-4", "4-2", "4", "1-", "-", "1-99999999999"),
        "--steps": ("0", "-1", "1e3", "99999999999999999999"),
        "--interval": ("0", "-1"),
        "--patience": ("0", "none"),
        "--learning-rate": ("0", "-1", "nan", "inf", "1e400", "fast"),
        "--clip": ("0", "-1", "nan"),
        "--accumulate": ("0", "-1"),
        "--workers": ("-1", "99999", "x"),
        "--memory": ("-1", "nan", "inf", "all"),
        "--device": ("cuda:77", "gpu", "", "meta:x"),
        "--seeds": ("x", "1.5"),
        "--precision": ("float16", "int8"),
        "--network": ("resnet", ""),
        "--augmentation": ("all",),
        "--data": ("/nonexistent", "/dev/null", "/etc/hostname", ""),
        "--validation": ("/nonexistent", "SCANS"),
        "--split": ("/nonexistent", "/dev/zero", "SCANS"),
        "--config": ("/nonexistent", "/dev/null", "SCANS"),
        "--fine-tune": ("/nonexistent", "SCANS"),
        "--resume": ("/nonexistent", "SCANS"),
        "--extend": ("5", "0", "-1"),
        "--sets-of": ("everything",),
    },
    "segment": {
        "--data": ("/nonexistent", "/dev/null", "/proc/self/mem", ""),
        "--out": ("SCANS", "SCANS/..//scans", "SCANS/p0_0.png", "/proc/nothing", "/dev/null"),
        "--max-set-size": ("0", "-1", "x"),
        "--sets-of": ("everything",),
        "--slices": ("some", "every:0", "largest:2"),
        "--group-regex": ("(", "nobody"),
        "--device": ("cuda:77", "gpu"),
        "--prompts": ("/nonexistent", "PROMPTS"),
    },
    "evaluate": {
        "--data": ("/nonexistent", "/dev/null", ""),
        "--out": ("SCANS/p0_0.png", "/proc/nothing", "/dev/null"),
        "--set-sizes": ("0", "-1", "x", "1.5"),
        "--baseline": ("/nonexistent", "SCANS"),
        "--split": ("/nonexistent", "SCANS"),
        "--part": ("rest",),
        "--unit": ("pixel",),
        "--memory": ("-1", "nan"),
        "--device": ("cuda:77",),
    },
}


def _wrong_option(random, folder):
    kind = _pick(random, ("train", "train", "segment", "evaluate"))
    option, values = _pick(random, list(OPTIONS[kind].items()))
    value = _pick(random, values)
    given = value.replace("SCANS", str(folder / "scans")).replace("PROMPTS", str(folder / "prompts"))
    command = _command(kind, folder)
    if option in command:
        at = command.index(option)
        del command[at : at + 2]
    return Case(f"{kind} {option} {value!r}", [*command, option, given], True)


def _wrong_pair(random, folder):
    """An image and its mask that do not fit, or a mask that is none."""
    image = folder / "volumes/imagesTr/b_0000.nii.gz"
    label = folder / "volumes/labelsTr/b.nii.gz"
    mask = folder / "scans/mask1.png"
    volume = np.asarray(nib.load(label).dataobj)
    mirrored = np.diag([-1.0, 1, 1, 1])
    shifted = np.eye(4)
    shifted[0, 3] = 100
    singular = nib.Nifti1Image(volume, np.eye(4))
    singular.set_sform(np.diag([0.0, 0, 0, 1]), 1)
    pixels = np.asarray(Image.open(mask))
    colours = np.stack([pixels] * 3, axis=-1)
    changes = {
        "mirrored": lambda: save_nifti(label, volume, mirrored),
        "shifted": lambda: save_nifti(label, volume, shifted),
        "other spacing": lambda: save_nifti(label, volume, np.diag([2.0, 1, 1, 1])),
        "other shape": lambda: save_nifti(label, volume[:-1]),
        "4-D": lambda: save_nifti(image, np.zeros((9, 8, 3, 2), np.float32)),
        "all NaN": lambda: save_nifti(image, np.full((9, 8, 3), np.nan, np.float32)),
        "complex": lambda: save_nifti(image, np.ones((9, 8, 3), np.complex64)),
        "fractions": lambda: save_nifti(label, volume + np.float32(0.5)),
        "negative": lambda: save_nifti(label, volume.astype(np.int16) - 1),
        "unknown label": lambda: save_nifti(label, volume * np.uint8(9)),
        "singular affine": lambda: nib.save(singular, image),
        "colour mask": lambda: Image.fromarray(colours).save(mask),
        "smaller mask": lambda: Image.fromarray(pixels[:-1]).save(mask),
        "JPEG mask": lambda: Image.fromarray(colours[..., 0] * np.uint8(20)).save(mask, format="JPEG"),
        "two frames": lambda: Image.fromarray(pixels).save(
            mask, format="TIFF", save_all=True, append_images=[Image.fromarray(pixels)]
        ),
    }
    name = _pick(random, list(changes))
    changes[name]()
    kind = _pick(random, ("train", "evaluate"))
    on_scans = name in ("colour mask", "smaller mask", "JPEG mask", "two frames")
    return Case(name, _command(kind, folder, "scans" if on_scans else "volumes"), name != "JPEG mask")


def _wrong_run(random, folder):
    """A run whose files were changed, or prompts for other images."""
    run = folder / "auto/seed0"
    how = _pick(random, ("flipped", "truncated", "NaN", "Inf", "other network", "config", "pipe", "metrics", "prompts"))
    resumed = ["train", "--resume", str(run), "--extend", "1"]
    command = _pick(random, (resumed, _command("segment", folder)))
    file = run / ("last.pt" if command is resumed else "best.pt")
    good = file.read_bytes()
    if how == "flipped":
        # Bytes of the weights; some of those between them are padding, which nothing reads.
        at = int(random.integers(len(good)))
        file.write_bytes(good[:at] + bytes([good[at] ^ (1 << int(random.integers(8)))]) + good[at + 1 :])
        return Case(f"a flipped bit at {at} of {file.name}", command, False)
    if how == "truncated":
        file.write_bytes(good[: int(random.integers(len(good)))])
    elif how in ("NaN", "Inf"):
        state = torch.load(file, weights_only=True)["state"]
        weights = next(iter(state["network"].values()))
        weights[(0,) * weights.ndim] = float(how)
        save_checkpoint(file, state)
    elif how == "other network":
        shutil.copy(folder / f"clicks/seed0/{file.name}", file)
    elif how == "config":
        lines = (run / "config.yaml").read_text().splitlines()
        at = int(random.integers(len(lines)))
        lines[at] = _pick(
            random, ("- a", "\t:", "network: 3", "size: large", "[", "labels: 7", "!!python/object:os.x 1")
        )
        (run / "config.yaml").write_text("\n".join(lines))
    elif how == "pipe":
        file.unlink()
        os.mkfifo(file)
    elif how == "metrics":
        (run / "data.json").write_bytes(random.bytes(100))
        command = resumed
    elif how == "prompts":
        name = _pick(random, ("p9_9.png", "p0_0.tif", "p1_0.png", "p0_0.PNG"))
        Image.fromarray(np.full((20, 24), 3, np.uint8)).save(folder / f"prompts/{name}")
        command = _command("prompts", folder)
    return Case(f"{how}: {command[0]}", command, True)


def _wrong_json(random, folder):
    """dataset.json, split.json and subjects.csv with other contents."""
    good = (folder / "volumes/dataset.json").read_text()
    texts = (
        "[]",
        "{}",
        "null",
        "{",
        "[" * 100_000,
        good.replace('"disc": 1', '"disc": 0'),
        good.replace('"disc": 1', '"disc": "1"'),
        good.replace('"disc": 1', '"disc": 1.5'),
        good.replace('"disc": 1', '"disc": 99999'),
        good.replace(".nii.gz", ".dcm"),
        good.replace(".nii.gz", "/../x.nii.gz"),
        good.replace('"0": "T1"', '"0": "T1", "1": "T2"'),
        good.replace('{"0": "T1"}', "7"),
        good.replace("channel_names", "modality"),
    )
    where = _pick(random, ("dataset.json", "dataset.json", "split.json", "subjects.csv"))
    command = _command("train", folder, "volumes")
    text = _pick(random, texts)
    if where == "dataset.json":
        (folder / "volumes/dataset.json").write_text(text)
    elif where == "split.json":
        (folder / "split.json").write_text(text)
        command += ["--split", str(folder / "split.json")]
    else:
        head = "case,subject\n"
        text = _pick(random, (head + "a,1\n", "case\na\n", "", head, head + "a,\nb,\nc,\nd,\ne,\n"))
        (folder / "volumes/subjects.csv").write_text(text)
    return Case(f"{where}: {text[:40]!r}", command, True)


def snapshot(folder):
    """What lies in a folder outside of out/ and of the runs: path -> contents."""
    found = {}
    for file in sorted(folder.rglob("*")):
        if file.relative_to(folder).parts[0] in ("out", "auto"):
            continue
        regular = file.is_file() and not file.is_symlink()
        found[str(file)] = file.read_bytes() if regular else os.readlink(file) if file.is_symlink() else None
    return found


def copy_inputs(source: Path, target: Path):
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, symlinks=True)
    for run in ("auto", "clicks", "vol"):
        config = target / run / "seed0/config.yaml"
        config.write_text(config.read_text().replace(str(source), str(target)))
