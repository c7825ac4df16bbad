"""Sessions without a page: operations, prompts, windows, masks and files."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from interconv_seg import data
from interconv_seg.interactive import History, Session, Stroke
from interconv_seg.interactive.export import Choice, export
from interconv_seg.interactive.planes import packed, quantized, unpacked
from interconv_seg.interactive.raster import Drawing
from interconv_seg.interactive.windows import windows
from page_common import follower
from PIL import Image


def images(count=3, size=(128, 128)):
    random = np.random.default_rng(0)
    y, x = np.mgrid[: size[0], : size[1]]
    disc = np.hypot(y - size[0] / 2, x - size[1] / 2) < 0.3 * size[0]
    return [(60 + 120 * disc + random.normal(0, 4, size)).astype(np.uint8) for _ in range(count)]


def test_one_stroke_gives_the_masks_of_all_images():
    session = Session(images(), follower())
    assert not any(mask.any() for mask in session.masks())
    masks = session.stroke(0, [(60, 60), (70, 66)]).masks()
    assert all(mask[64, 64] and not mask[2, 2] for mask in masks)


def test_without_a_network_masks_are_what_is_painted():
    first, second = Session(images(2)).stroke(0, [(60, 60), (70, 66)], radius=4).masks()
    assert first.any()
    assert not second.any()


def test_undo_redo_and_a_saved_session_give_the_same_bits(tmp_path):
    session = Session(images(), follower()).stroke(0, [(60, 60)]).accept(1).stroke(2, [(3, 3)], positive=False)
    final = session.probabilities().clone()
    for _ in range(3):
        session.undo()
    assert not session.probabilities().any()
    for _ in range(3):
        session.redo()
    assert torch.equal(session.probabilities(), final)
    session.save(tmp_path / "s.json")
    assert torch.equal(Session(images(), follower()).restore(tmp_path / "s.json").probabilities(), final)
    with pytest.raises(ValueError, match="other images"):
        Session(images(2), follower()).restore(tmp_path / "s.json")


def test_an_accepted_mask_stays():
    session = Session(images(), follower()).stroke(0, [(64, 64)]).accept(1)
    before = session.masks()[1]
    session.stroke(2, [(3, 3), (60, 3)], structure=1).erase(next(iter(session.history.state.strokes)))
    assert (session.masks()[1] == before).all()
    with pytest.raises(ValueError, match="accepted"):
        session.stroke(1, [(5, 5)])


kinds = st.sampled_from(["stroke", "erase", "accept", "structure", "clear", "undo", "redo"])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(kinds, st.integers(0, 2)), max_size=25))
def test_any_sequence_of_operations_is_undone_and_replayed(steps):
    history = History([(10, 10)] * 3)
    for n, (op, image) in enumerate(steps):
        values = {
            "stroke": {"image": image, "structure": 1, "positive": True, "radius": 1, "points": [[1, image]]},
            "erase": {"stroke": next(iter(history.state.strokes), "none")},
            "accept": {"image": image, "accepted": n % 2 == 0},
            "structure": {"name": f"s{n}"},
        }.get(op, {})
        try:
            history.do({"op": op, "id": str(n), **values}) if op not in ("undo", "redo") else getattr(history, op)()
        except ValueError:
            continue
    again = History.from_json([(10, 10)] * 3, __import__("json").loads(history.to_text({})))
    assert vars(again.state) == vars(history.state)
    done, state = history.done, history.state
    while history.undo():
        pass
    assert not history.state.strokes
    for _ in range(done):
        history.redo()
    assert vars(history.state) == vars(state)


@pytest.mark.parametrize(("stored", "grid"), [((128, 128), (128, 128)), ((50, 70), (128, 128)), ((300, 257), (64, 96))])
def test_prompts_on_the_grid_are_those_of_a_prompt_file(stored, grid):
    drawing = Drawing(stored, grid)
    points = tuple((x * stored[1], y * stored[0]) for x, y in ((0.1, 0.2), (0.7, 0.4), (0.5, 0.9)))
    drawing.draw([Stroke("a", 0, 1, True, 1.5, points), Stroke("b", 0, 1, False, 0.5, points[:1])])
    values = torch.from_numpy(drawing.values)
    expected = F.adaptive_max_pool2d(torch.stack([values == 1, values == 2]).float(), grid)
    assert torch.equal(drawing.prompts(), expected)
    assert expected[1].any()


@given(st.integers(1, 60), st.sets(st.integers(0, 59)), st.integers(2, 9))
def test_every_image_is_in_a_window_with_prompts(count, prompted, max_set):
    prompted = {i for i in prompted if i < count}
    found = windows(count, prompted, max_set)
    assert {i for window in found for i in window} == (set(range(count)) if prompted else set())
    assert all(len(window) <= max_set and prompted & set(window) for window in found)


def test_quantized_planes_keep_the_mask():
    p = torch.tensor([[0.0, 0.5, 0.50001], [1.0, 0.25, 0.999]])
    assert ((quantized(p) >= 128) == (p > 0.5).numpy()).all()
    assert torch.equal(unpacked(packed(p), (2, 3)) > 0.5, p > 0.5)


def test_an_export_is_read_back(tmp_path, monkeypatch):
    for i, image in enumerate(images(2)):
        Image.fromarray(image).save(tmp_path / f"x{i}.png")
    session = Session(tmp_path, follower()).stroke(0, [(60, 60), (70, 66)])
    files = export(session, tmp_path / "out", Choice())
    assert {file.name for file in files} >= {"x0.png", "x1.png", "results.csv", "session.json"}
    for i, mask in enumerate(session.label_maps()):
        assert (np.array(Image.open(tmp_path / f"out/masks/labels/x{i}.png")) == mask).all()
    scan = session.pictures[0].scan
    prompts = data.read_prompts(tmp_path / "out/prompts/1-structure-1", scan)
    assert torch.equal(prompts, session.prompts(1)[0])
