import itertools
from functools import partial

import numpy as np
import pytest
import torch
from interconv_seg import scribbles
from interconv_seg.prompts import BOX_JITTER, EVALUATED_COUNTS, draw_boxes, draw_prompts
from scipy import ndimage

KINDS = ("scribble", "click", "mixed", "both", "any")


def shapes(n, height=48, width=40, seed=0):
    """Random smooth blobs, several pieces each, bool [n, height, width]."""
    rng = np.random.default_rng(seed)
    fields = ndimage.gaussian_filter(rng.standard_normal((n, height, width)), (0, 4, 4))
    return torch.from_numpy(fields > np.quantile(fields, 0.8))


def disks(n, height=64, width=64):
    row, column = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    disk = (row - height / 2) ** 2 + (column - width / 2) ** 2 < (height / 3) ** 2
    return disk.repeat(n, 1, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_prompts_stay_inside_their_regions(kind):
    masks = shapes(40)
    drawn = draw_prompts(masks, range(40), 6, 6, kind)
    assert drawn.shape == (40, 2, 48, 40)
    assert drawn.dtype == torch.float32
    assert set(drawn.unique().tolist()) == {0, 1}
    for mask, (positive, negative) in zip(masks.numpy(), drawn.numpy(), strict=True):
        assert mask[positive > 0].all()
        assert not mask[negative > 0].any()
        assert positive.any()
        assert negative.any()


def test_clicks_are_as_many_as_asked():
    masks = shapes(30)
    for positive, negative in ((1, 0), (3, 5), (8, 8)):
        counts = draw_prompts(masks, range(30), positive, negative, "click").sum((2, 3))
        assert (counts <= torch.tensor([positive, negative])).all()  # two clicks may fall on one pixel
        assert (counts == torch.tensor([positive, negative])).float().mean() > 0.8
    one = draw_prompts(masks, range(30), 1, 1, "click").sum((2, 3))
    assert (one == 1).all()


def test_clicks_are_sampled_uniformly():
    mask = torch.zeros(1, 4, 5, dtype=torch.bool)
    mask[0, 1, 1:4] = mask[0, 3, 4] = True
    hits = draw_prompts(mask.expand(4000, 4, 5), range(4000), 1, 1, "click").sum(0)
    for channel, region in zip(hits, (mask[0], ~mask[0]), strict=True):
        expected = 4000 / region.sum()
        assert (channel[~region] == 0).all()
        assert ((channel[region] - expected).abs() < 5 * expected.sqrt()).all()


def test_a_scribble_is_one_stroke_of_one_pixel_width():
    masks = shapes(60)
    for channel in range(2):
        drawn = draw_prompts(masks, range(60), 1 - channel, channel, "scribble")[:, channel].numpy()
        lengths = []
        for stroke in drawn:
            _, pieces = ndimage.label(stroke, np.ones((3, 3)))
            assert pieces == 1  # connected, corners included
            lengths.append(stroke.sum())
            assert ndimage.binary_erosion(stroke, np.ones((3, 3))).sum() <= 1
        assert np.median(lengths) > 4


def test_scribbles_have_no_gaps():
    """For the strongest bends, corner to corner, the next point is at most one pixel away."""
    size = 100
    ends = torch.tensor([[0, 0], [size - 1, size - 1], [0, size - 1], [size - 1, 0]])
    extremes = torch.tensor(list(itertools.product((0.0, 1.0), repeat=2 * scribbles.WAVES)))
    uniform = extremes.view(-1, 1, scribbles.WAVES, 2)
    paths = scribbles._warped_lines(ends[[0, 2]], ends[[1, 3]], uniform, 4 * size)
    assert paths.shape == (64, 2, 400, 2)
    assert 0.8 < paths.diff(dim=2).abs().max() <= 1


def test_scribbles_are_curved_lines_between_their_ends():
    """The ends are those of the line; in between, the path is smooth and not straight."""
    a, b = torch.tensor([[3, 5]]), torch.tensor([[3, 45]])
    straight = scribbles._warped_lines(a, b, torch.full((1, scribbles.WAVES, 2), 0.5), 200)
    assert (straight[..., 0] == 3).all()
    torch.testing.assert_close(straight[0, :, 1], torch.linspace(5, 45, 200))
    bent = scribbles._warped_lines(a, b, torch.full((1, scribbles.WAVES, 2), 0.9), 200)
    torch.testing.assert_close(bent[:, [0, -1]], straight[:, [0, -1]], atol=1e-4, rtol=0)
    assert (bent - straight).norm(dim=-1).max() > 5
    assert (bent - straight).diff(n=2, dim=1).abs().max() < 0.05  # smooth


def test_the_longest_run():
    for row, kept in (("1101110", "0001110"), ("1100110", "1100000"), ("0000", "0000"), ("111", "111"), ("01", "01")):
        got = scribbles._longest_run(torch.tensor([[bit == "1" for bit in row]]))
        assert "".join("01"[bit] for bit in got[0].tolist()) == kept


def test_counts_are_sampled_from_their_range():
    counts = draw_prompts(disks(3000), range(3000), (1, 6), (0, 6), "click").sum((2, 3)).int()
    for channel, minimum in ((0, 1), (1, 0)):
        shares = torch.bincount(counts[:, channel], minlength=7)[minimum:] / 3000
        assert counts[:, channel].min() >= minimum
        assert counts[:, channel].max() == 6
        assert ((shares - 1 / len(shares)).abs() < 0.03).all()


def test_mixed_is_half_clicks():
    strokes = draw_prompts(disks(400), range(400), 1, 0, "mixed")[:, 0].sum((1, 2))
    assert 0.4 < (strokes == 1).float().mean() < 0.6


@pytest.mark.parametrize(("kind", "scribbles"), [("mixed", "stroke"), ("any", "stroke"), ("any", "mixed")])
def test_prompts_depend_on_mask_and_seed_alone(kind, scribbles):
    draw = partial(draw_prompts, kind=kind, scribbles=scribbles, boxes=0.5)
    masks, seeds = shapes(24), list(range(100, 124))
    together = draw(masks, seeds)
    assert torch.equal(together, draw(masks, seeds))
    for i in (0, 7, 23):
        assert torch.equal(draw(masks[i : i + 1], seeds[i : i + 1])[0], together[i])
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    assert torch.equal(draw(masks[order], [seeds[i] for i in order]), together[order])
    assert not torch.equal(draw(masks, [seed + 1 for seed in seeds]), together)


def test_both_kinds_in_one_image():
    """Each prompt is that of one of the other kinds, each in about half of the cases."""
    masks = disks(40)
    both, click, scribble = (draw_prompts(masks, range(40), 1, 0, kind) for kind in ("both", "click", "scribble"))
    is_click, is_scribble = ((both == other).flatten(1).all(1) for other in (click, scribble))
    assert (is_click | is_scribble).all()
    assert 10 < int(is_click.sum()) < 30


def test_any_is_scribbles_or_clicks_or_each_in_its_own_number():
    """A third of the images each. Where there are both, the clicks are those of another seed than the scribbles'."""
    masks = disks(300)
    found = draw_prompts(masks, range(300), 2, 0, "any")
    scribbles_alone = draw_prompts(masks, range(300), 2, 0, "scribble")
    is_scribble = (found == scribbles_alone).flatten(1).all(1)
    is_click = found.sum((1, 2, 3)) <= 2
    has_both = (found >= scribbles_alone).flatten(1).all(1) & ~is_scribble
    assert (is_scribble | is_click | has_both).all()
    extra = (found - scribbles_alone)[has_both].sum((1, 2, 3))
    assert ((extra >= 1) & (extra <= 2)).all()
    for share in (is_scribble, is_click, has_both):
        assert 75 < int(share.sum()) < 125


def naive_box(mask):
    rows, columns = zip(*[(y, x) for y, line in enumerate(mask.tolist()) for x, v in enumerate(line) if v], strict=True)
    return min(rows), max(rows), min(columns), max(columns)


def test_boxes():
    masks = torch.cat([shapes(30), torch.zeros(1, 48, 40, dtype=torch.bool)])
    boxes = draw_boxes(masks, range(31), jitter=0)
    assert boxes.shape == (31, 1, 48, 40)
    assert not boxes[30].any()
    for mask, (box,) in zip(masks[:30], boxes[:30], strict=True):
        top, bottom, left, right = naive_box(mask)
        assert box.sum() == (bottom - top + 1) * (right - left + 1)
        assert box[top : bottom + 1, left : right + 1].all()


def test_boxes_are_moved_outwards_by_up_to_the_jitter():
    mask = torch.zeros(2000, 64, 64, dtype=torch.bool)
    mask[:, 30:33, 28:36] = True
    boxes = draw_boxes(mask, range(2000))
    found = np.array([naive_box(box) for box in boxes[:, 0]])
    moved = np.stack([30 - found[:, 0], found[:, 1] - 32, 28 - found[:, 2], found[:, 3] - 35])
    for side in moved:
        counts = np.bincount(side, minlength=BOX_JITTER + 1)
        assert len(counts) == BOX_JITTER + 1
        assert (abs(counts - 100) < 45).all()
    assert abs(np.corrcoef(moved) - np.eye(4)).max() < 0.1


def test_some_images_have_boxes():
    drawn = draw_prompts(disks(400), range(400), boxes=0.25)
    assert drawn.shape == (400, 3, 64, 64)
    assert 70 < int((drawn[:, 2] > 0).flatten(1).any(1).sum()) < 130
    assert torch.equal(drawn[:, :2], draw_prompts(disks(400), range(400)))


@pytest.mark.parametrize("kind", KINDS)
def test_more_prompts_keep_the_first(kind):
    masks = shapes(10)
    drawn = [draw_prompts(masks, range(10), number, number, kind) for number in EVALUATED_COUNTS]
    for fewer, more in itertools.pairwise(drawn):
        assert (fewer <= more).all()
        assert (fewer < more).any()


@pytest.mark.parametrize(
    ("kind", "scribbles"),
    [*((kind, "stroke") for kind in KINDS), *(("scribble", kind) for kind in ("line", "centerline", "contour"))],
)
def test_empty_regions_get_no_prompts(kind, scribbles):
    masks = torch.stack([torch.zeros(16, 12), torch.ones(16, 12), disks(1, 16, 12)[0].float()]).bool()
    present = draw_prompts(masks, range(3), 4, 4, kind, scribbles).sum((2, 3)) > 0
    assert present.tolist() == [[False, True], [True, False], [True, True]]
    one_pixel = torch.zeros(1, 16, 12, dtype=torch.bool)
    one_pixel[0, 15, 11] = True
    drawn = draw_prompts(one_pixel, [5], 4, 4, kind, scribbles)[0]
    assert drawn[0].nonzero().tolist() == [[15, 11]]


def test_nothing_to_draw():
    assert draw_prompts(torch.zeros(0, 8, 8, dtype=torch.bool), []).shape == (0, 2, 8, 8)
    assert draw_prompts(disks(2), [1, 2], 0, 0).sum() == 0


@pytest.mark.parametrize(
    ("change", "error", "word"),
    [
        ({"masks": torch.zeros(2, 8, 8)}, TypeError, "float32"),
        ({"masks": torch.zeros(2, 1, 8, 8, dtype=torch.bool)}, TypeError, r"\(2, 1, 8, 8\)"),
        ({"seeds": [1]}, ValueError, "1 seeds for 2 masks"),
        ({"positive": -1}, ValueError, "positive = -1"),
        ({"negative": (3, 2)}, ValueError, r"negative = \(3, 2\)"),
        ({"kind": "circle"}, ValueError, "circle"),
        ({"scribbles": "knot"}, ValueError, "scribbles = 'knot'"),
    ],
)
def test_wrong_arguments(change, error, word):
    right = {"masks": torch.zeros(2, 8, 8, dtype=torch.bool), "seeds": [1, 2]}
    with pytest.raises(error, match=word):
        draw_prompts(**(right | change))
