"""nnU-Net v2: what needs no nnunetv2. Everything else is in tests/integrations."""

import json
from importlib import metadata

import pytest
from interconv_seg.cli import main
from interconv_seg.nnunet_v2.alignment import starts_of
from interconv_seg.nnunet_v2.case_sets import CaseSets, check_folds, read_sets_csv

TABLE = "set,case\nA,a1\nB,b1\nA,a2\n"


def write(folder, text=TABLE):
    folder.mkdir(exist_ok=True)
    (folder / "sets.csv").write_text(text, encoding="utf-8")
    return folder


def test_without_a_table_or_pattern_a_set_is_slices_of_one_case(tmp_path):
    sets = CaseSets.of_dataset({}, [tmp_path])
    assert sets.kind == "slices"
    assert sets.group(["a1", "a2"]) == [("a1",), ("a2",)]
    assert sets.warning(["a1", "a2"], "here") is None


def test_the_first_table_counts_and_names_the_sets(tmp_path):
    first, second = write(tmp_path / "1"), write(tmp_path / "2", "set,case\nC,a1\n")
    sets = CaseSets.of_dataset({}, [tmp_path / "absent", first, second])
    assert sets.kind == "cases"
    assert sets.group(["a1", "b1", "new", "a2", "newer"]) == [("a1", "a2"), ("b1",), ("new",), ("newer",)]
    warning = sets.warning(["a1", "new"], "here")
    assert warning == "WARNING: the set of 1 of 2 cases is not known (sets.csv); each is a set of one image: new"


def test_a_set_never_takes_in_a_case_without_one_that_has_its_name():
    sets = CaseSets("cases", {"a1": "a2"})
    assert sets.group(["a1", "a2"]) == [("a1",), ("a2",)]


@pytest.mark.parametrize("pattern", ["^([a-z]+)_", "^[a-z]+"])
def test_a_pattern_finds_the_set_in_the_name(tmp_path, pattern):
    about = {"interconv": {"set_pattern": pattern, "max_set_size": 3}}
    sets = CaseSets.of_dataset(about, [])
    assert sets.max_size == 3
    assert sets.group(["a_1", "b_1", "a_2", "7"]) == [("a_1", "a_2"), ("b_1",), ("7",)]
    assert f"no sets.csv in here, and set_pattern {pattern!r} does not match" in sets.warning(["7"], "here")
    model = {"interconv": sets.settings()}
    assert CaseSets.of_model(json.loads(json.dumps(model)), None) == sets
    assert CaseSets.of_model(model, write(tmp_path, "set,case\nX,a_1\nX,7\n")).group(["a_1", "7"]) == [("a_1", "7")]


def test_a_model_keeps_its_kind_of_sets(tmp_path):
    model = {"interconv": CaseSets().settings()}
    assert CaseSets.of_model(model, write(tmp_path)).group(["a1", "a2"]) == [("a1",), ("a2",)]
    with pytest.raises(ValueError, match='expected "sets" to be "cases" or "slices"'):
        CaseSets.of_model({}, tmp_path)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"max_set_size": 0}, "max_set_size = 0, expected an integer of at least 1"),
        ({"max_set_size": True}, "max_set_size = True"),
        ({"set_pattern": "("}, "expected a regular expression"),
        ({"set_pattern": 3}, "expected a regular expression"),
        ({"pattern": "x"}, "expected an object with keys of"),
        ({"sets": "cases"}, "sets = 'cases', but there is no sets.csv: expected \"slices\", or nothing"),
        ({"sets": "slices", "set_pattern": "x"}, "sets = 'slices', but there is a set_pattern"),
        ([], "expected an object with keys of"),
    ],
)
def test_settings_that_cannot_be_used_are_shown(section, message):
    with pytest.raises(ValueError, match=message):
        CaseSets.of_dataset({"interconv": section}, [])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("set,image\nA,a1\n", "row 1: .*expected the columns set and case"),
        ("set,case\nA,a1\n,a2\n", "row 2: .*both filled in"),
        ("set,case\nA,a1\nB,a1\n", "row 2: case 'a1' is listed twice"),
        ('set,case\nA,"a1\n', "cannot be read as a table"),
        ("set,case\n", "no rows"),
    ],
)
def test_tables_that_cannot_be_used_are_shown(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read_sets_csv(write(tmp_path, text) / "sets.csv")
    with pytest.raises(ValueError, match="cannot be read as a table"):
        read_sets_csv(tmp_path / "absent.csv")


def test_folds_that_divide_a_set_are_refused():
    groups = [("a1", "a2"), ("b1",)]
    check_folds([{"train": ["a1", "a2"], "val": ["b1"]}, {"train": ["b1"], "val": ["a2", "a1"]}], groups, "f")
    with pytest.raises(ValueError, match="fold 1 trains with a1 and validates with a2"):
        check_folds([{"train": [], "val": []}, {"train": ["a1", "b1"], "val": ["a2"]}], groups, "f")


def case(crop=((0, 5), (2, 12), (3, 13)), before=(5, 20, 20), spacing=(1, 1, 1)):
    cropped = [high - low for low, high in crop]
    return {
        "shape_before_cropping": before,
        "spacing": spacing,
        "bbox_used_for_cropping": [list(pair) for pair in crop],
        "shape_after_cropping_and_before_resampling": tuple(cropped),
    }


def test_cropped_cases_lie_where_they_were():
    shifted = case(((1, 5), (4, 20), (0, 9)))
    assert starts_of(["a", "b"], [(5, 10, 10), (4, 16, 9)], [case(), shifted]) == [(0, 2, 3), (1, 4, 0)]
    assert starts_of(["a", "b"], [(5, 7, 7)] * 2, [case(), case()]) == [(0, 0, 0)] * 2  # one crop: resampled alike
    with pytest.raises(
        ValueError, match="b was cropped to its nonzero region 4 x 16 x 9 and then resampled to 4 x 8 x 5"
    ):
        starts_of(["a", "b"], [(5, 10, 10), (4, 8, 5)], [case(), shifted])


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"before": (5, 20, 21)}, "b has shape 5 x 20 x 21 and a 5 x 20 x 20"),
        ({"spacing": (1, 1, 2)}, "b has spacing 1 x 1 x 2 and a 1 x 1 x 1"),
    ],
)
def test_cases_on_different_grids_are_refused(other, message):
    with pytest.raises(ValueError, match=message):
        starts_of(["a", "b"], [(5, 10, 10)] * 2, [case(), case(**other)])


@pytest.fixture
def installed(monkeypatch):
    """Makes a version of nnunetv2 look installed."""

    def set_version(version):
        monkeypatch.setattr(metadata, "version", lambda _: version)

    return set_version


@pytest.mark.drop_in("nnU-Net", "interconv nnunet install")
def test_install_writes_the_file_and_prints_the_variable(tmp_path, monkeypatch, capsys, installed):
    installed("2.8.1")
    monkeypatch.delenv("nnUNet_extTrainer", raising=False)
    assert main(["nnunet", "install", "--folder", str(tmp_path / "new")]) == 0
    assert f'export nnUNet_extTrainer="{tmp_path / "new"}"' in capsys.readouterr().out
    text = (tmp_path / "new" / "interconv_trainer.py").read_text(encoding="utf-8")
    assert text == "from interconv_seg.nnunet_v2 import nnUNetTrainerInterConv  # noqa: F401\n"

    monkeypatch.setenv("nnUNet_extTrainer", f"{tmp_path / 'mine'}:{tmp_path / 'other'}")
    assert main(["nnunet", "install"]) == 0
    assert "names this folder already" in capsys.readouterr().out
    assert (tmp_path / "mine" / "interconv_trainer.py").exists()
    assert main(["nnunet", "install", "--folder", str(tmp_path / "third")]) == 0
    kept = f"{tmp_path / 'third'}:{tmp_path / 'mine'}:{tmp_path / 'other'}"
    assert f'export nnUNet_extTrainer="{kept}"' in capsys.readouterr().out


def test_install_needs_an_nnunet_that_finds_external_trainers(tmp_path, capsys, monkeypatch, installed):
    installed("2.7")
    assert main(["nnunet", "install", "--folder", str(tmp_path)]) == 2
    assert "nnunetv2 2.7: expected 2.8 or newer" in capsys.readouterr().err

    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    assert main(["nnunet", "install", "--folder", str(tmp_path)]) == 2
    assert "nnunetv2 is not installed, expected 2.8 or newer" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
