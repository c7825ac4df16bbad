"""Subjects, and their split into training, validation and testing: no subject on two sides."""

import json
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from interconv_seg import data, preparation
from interconv_seg.data import Collection, DataError, Scan, Split
from seg_common import BINARY, refused


def collection(*cases, name="d"):
    scans = [Scan(case, None, case, name, (Path(f"{case}.png"),), (), None) for case in cases]
    return Collection(name, tuple(scans), {})


def subjects(found):
    return [scan.subject for scan in found.scans]


def test_the_split_is_by_subject_and_whole():
    many = collection(*(f"s{i}" for i in range(20)))
    many = replace(many, scans=(*many.scans, *(replace(scan, case=scan.case + "b") for scan in many.scans)))
    split = Split.of([many])
    assert {part: len(names) for part, names in split.parts["d"].items()} == {"train": 12, "validation": 4, "test": 4}
    parts = {part: split.select(many, part) for part in data.subjects.PARTS}
    assert sum(len(set(subjects(part))) for part in parts.values()) == 20
    assert sorted(scan.case for part in parts.values() for scan in part.scans) == sorted(s.case for s in many.scans)
    assert Split.of([replace(many, scans=many.scans[::-1])]) == split
    with pytest.raises(DataError, match=r"d: 2 subjects .* at least 3"):
        Split.of([collection("a", "b")])


def test_a_split_is_read_as_it_was_written(tmp_path):
    found = Split.of([collection("a", "b", "c", "d"), collection("x", "y", "zé", name="e")])
    found.write(tmp_path / "split.json")
    assert Split.read(tmp_path / "split.json") == found


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("{", "cannot be read as JSON"),
        ("[1]", "cannot be read as JSON"),
        (json.dumps({"d": {"train": ["a"]}}), "validation"),
        (json.dumps({"d": {"train": ["a"], "validation": ["b"], "test": ["a"]}}), "lists a of d twice"),
    ],
)
def test_broken_splits(tmp_path, text, word):
    (tmp_path / "split.json").write_text(text)
    with pytest.raises(DataError, match=word) as caught:
        Split.read(tmp_path / "split.json")
    assert "split.json" in str(caught.value)


def test_a_split_must_know_every_subject():
    split = Split({"d": {"train": ("a", "b"), "validation": ("c",), "test": ()}})
    assert subjects(split.select(collection("a", "b", "c"), "train")) == ["a", "b"]
    with pytest.raises(DataError, match="subject x is not in the split"):
        split.select(collection("a", "x"), "train")
    with pytest.raises(DataError, match="no subject for test"):
        split.select(collection("a", "b", "c"), "test")
    with pytest.raises(DataError, match="e: not in the split, expected one of d"):
        split.select(collection("a", name="e"), "train")


def test_subjects_by_a_regular_expression(tmp_path, save):
    for name in ("patient01_ED", "patient01_ES", "patient02_ED"):
        save(tmp_path / f"{name}.png", np.zeros((4, 4), np.uint8))
    assert subjects(data.read(tmp_path, group_regex=r"patient\d+")) == ["patient01", "patient01", "patient02"]
    assert subjects(data.read(tmp_path, group_regex=r"_(E[DS])")) == ["ED", "ES", "ED"]
    refused(tmp_path, "patient01_ED", "does not contain 'ES'", group_regex="ES")
    refused(tmp_path, "'('", "regular expression", group_regex="(")


def test_subjects_by_a_table(nnunet):
    (nnunet / "subjects.csv").write_text("case,subject\na,anna\nb,anna\n")
    assert subjects(data.read(nnunet)) == ["anna", "anna"]
    assert subjects(data.read(nnunet, group_regex=".")) == ["a", "b"]
    (nnunet / "subjects.csv").write_text("case,subject\na,anna\nb,\n")
    refused(nnunet, "subjects.csv", "no subject for b")
    (nnunet / "subjects.csv").write_text("case,patient\na,anna\n")
    refused(nnunet, "subjects.csv", "columns case and subject")


@pytest.mark.parametrize(
    ("cases", "alike"),
    [
        ([f"patient{i:02}_{phase}" for i in range(6) for phase in ("ED", "ES")], True),
        ([f"patient{i:02}_frame{frame:02}" for i in range(6) for frame in (1, 12)], True),
        ([f"BraTS-{i:05}-{visit:03}" for i in range(6) for visit in range(2)], True),
        ([f"case_{i:03}" for i in range(12)], False),
        ([f"set1_{i:03}" for i in range(12)], False),
        ([f"IXI{i:03}-Guys-{700 + i}-T1" for i in range(12)], False),
    ],
)
def test_names_that_look_like_one_patient_are_told(cases, alike):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Split.of([collection(*cases)])
    assert [("one patient" in str(w.message), "--group-regex" in str(w.message)) for w in caught] == [
        (True, True)
    ] * alike


def test_images_for_both_training_and_validation_are_refused(tmp_path, save):
    for name in "abc":
        save(tmp_path / f"x/{name}.png", np.zeros((4, 4), np.uint8))
    save(tmp_path / "y/d.png", np.zeros((4, 4), np.uint8))
    (tmp_path / "y/a.png").symlink_to(tmp_path / "x/a.png")
    config = replace(BINARY, data=(str(tmp_path / "x"),), validation_data=(str(tmp_path / "y"),))
    read = partial(preparation.read_data, config)
    with pytest.raises(DataError, match=r"a\.png: is among the data for training and for validation"):
        preparation.check_disjoint(read(config.data), read(config.validation_data))
    (tmp_path / "y/a.png").unlink()
    preparation.check_disjoint(read(config.data), read(config.validation_data))
