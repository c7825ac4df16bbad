"""Fuzzing: a truncated, corrupted or replaced file is read correctly or refused with its name."""

import gzip

import numpy as np
import pytest
from interconv_seg import data


def mutations(good, rng):
    """Truncated at many lengths, corrupted in one or several bytes, random bytes, empty."""
    yield b""
    for length in np.unique(np.linspace(1, len(good) - 1, 40).astype(int)):
        yield good[:length]
    for _ in range(60):
        spoiled = bytearray(good)
        for _ in range(rng.integers(1, 4)):
            at = rng.integers(min(len(good), 400) if rng.random() < 0.7 else len(good))
            spoiled[at : at + 2] = rng.bytes(rng.integers(1, 5))
        yield bytes(spoiled)
    for length in (1, 100, 400, 5000):
        yield rng.bytes(length)
    yield b"%PDF-1.7 not an image"


def read_or_refuse(path):
    """(samples, None) or (None, what the user is told)."""
    try:
        with np.errstate(all="ignore"):
            return data.read(path).load(), None
    except data.DataError as error:
        return None, str(error)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("ending", [".png", ".tif", ".jpg", ".bmp", ".nii", ".nii.gz"])
def test_fuzzed_images_and_masks(tmp_path, save, rng, ending):
    lossless = ".png" if ending == ".jpg" else ending
    image = save(tmp_path / f"case{ending}", rng.integers(0, 200, (9, 11), dtype=np.uint8))
    mask = save(tmp_path / f"truth{lossless}", rng.integers(0, 3, (9, 11), dtype=np.uint8))
    (tmp_path / "sets.csv").write_text(f"set,image,mask\ns,{image.name},{mask.name}\n")
    assert read_or_refuse(tmp_path)[1] is None
    refusals = 0
    for target in (image, mask):
        good = target.read_bytes()
        packed = ending == ".nii.gz"
        for bad in mutations(gzip.decompress(good) if packed else good, rng):
            target.write_bytes(gzip.compress(bad, 1) if packed and rng.random() < 0.5 else bad)
            samples, refusal = read_or_refuse(tmp_path)
            for sample in samples or ():
                assert sample.image.isfinite().all()
                assert 0 <= sample.image.min() <= sample.image.max() <= 1
                assert sample.mask.shape == sample.image.shape[1:]
                assert sample.mask.min() >= 0
            if refusal is not None:
                refusals += 1
                assert refusal.startswith(str(tmp_path))
                assert "\n" not in refusal
        target.write_bytes(good)
    assert refusals > 50


def test_fuzzed_npz(tmp_path, rng, arrays):
    file = tmp_path / "toy.npz"
    np.savez_compressed(file, **{key: array[:3] for key, array in arrays.items()})
    good = file.read_bytes()
    for bad in mutations(good, rng):
        file.write_bytes(bad)
        _, refusal = read_or_refuse(file)
        assert refusal is None or refusal.startswith(str(file))


@pytest.mark.parametrize("name", ["sets.csv", "dataset.json"])
def test_fuzzed_tables(nnunet, rng, name):
    if name == "sets.csv":
        (nnunet / "dataset.json").unlink()
        lines = [f"s{i},imagesTr/{case}_000{i}.png,labelsTr/{case}.png\n" for case in "ab" for i in range(2)]
        (nnunet / name).write_text("set,image,mask\n" + "".join(lines))
    good = (nnunet / name).read_bytes()
    assert read_or_refuse(nnunet)[1] is None
    for bad in (*mutations(good, rng), good + b"s," + b"x" * 5000, good + b"s,a\0b", b"[" * 100_000):
        (nnunet / name).write_bytes(bad)
        _, refusal = read_or_refuse(nnunet)
        assert refusal is None or refusal.startswith(str(nnunet))
