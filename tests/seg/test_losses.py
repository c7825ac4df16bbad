"""The losses against loops in float64."""

import math

import pytest
import torch
from interconv_seg import automatic_loss, interactive_loss
from interconv_seg.data.files import IGNORED

import interconv_kernels as ik


def dice(p, m):
    return 1 - (2 * float((p * m).sum()) + 1e-5) / (float(p.sum() + m.sum()) + 1e-5)


def interactive(y, m):
    p, m = 1 / (1 + (-y[0].double()).exp()), m.double()
    q = torch.where(m == 1, p, 1 - p)
    return dice(p, m) + float((-((1 - q) ** 2) * q.log()).mean())


def automatic(y, m):
    p = y.double().exp() / y.double().exp().sum(0)
    entropy = [-math.log(float(p[m[i, j], i, j])) for i in range(m.shape[0]) for j in range(m.shape[1])]
    per_class = [dice(p[c], (m == c).double()) for c in range(1, len(p))]
    return sum(per_class) / len(per_class) + sum(entropy) / len(entropy)


LOSSES = {"interactive": (interactive_loss, interactive, 1), "automatic": (automatic_loss, automatic, 4)}
each_loss = pytest.mark.parametrize("kind", LOSSES)


def example(kind, size=(9, 6), n=6):
    torch.manual_seed(0)
    _, _, classes = LOSSES[kind]
    masks = torch.randint(max(2, classes), (n, *size))
    masks[1] = 0  # a sample in which nothing is there
    return torch.randn(n, classes, *size) * 2, masks


@each_loss
def test_samples_are_summed_and_divided_by_the_number_of_sets(kind):
    loss, sample_loss, _ = LOSSES[kind]
    logits, masks = example(kind)
    samples = [sample_loss(y, m) for y, m in zip(logits, masks, strict=True)]
    for lengths in ([1, 3, 2], [6], [1] * 6, [0, 4, 0, 2]):
        sets = sum(length > 0 for length in lengths)
        expected = torch.tensor(sum(samples) / sets)
        torch.testing.assert_close(loss(logits, masks, lengths).double(), expected.double(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(loss(logits, masks, ik.Sets.from_size(3, 6)).item(), sum(samples) / 2, rtol=1e-5, atol=0)


@pytest.mark.parametrize(("gamma", "squared"), [(20.0, True), (0.0, False), (2.0, True)])
def test_the_loss_of_scribbleprompt(gamma, squared):
    """Focal loss with any exponent, Dice with squared denominators (scribbleprompt/loss/focal_dice.py: 20, squared)."""
    logits, masks = example("interactive")
    total = 0.0
    for y, m in zip(logits, masks, strict=True):
        p, m = 1 / (1 + (-y[0].double()).exp()), m.double()
        q = torch.where(m == 1, p, 1 - p)
        total += float((-((1 - q) ** gamma) * q.log()).mean())
        below = float((p**2).sum() + (m**2).sum()) if squared else float(p.sum() + m.sum())
        total += 1 - (2 * float((p * m).sum()) + 1e-5) / (below + 1e-5)
    found = interactive_loss(logits, masks, [2, 4], focal_gamma=gamma, squared_dice=squared)
    torch.testing.assert_close(found.item(), total / 2, rtol=1e-5, atol=0)


@each_loss
def test_ignored_pixels_do_not_count(kind):
    loss, sample_loss, _ = LOSSES[kind]
    logits, masks = example(kind)
    logits.requires_grad_()
    masks[2, :, 3:] = masks[3] = IGNORED
    kept = [(logits[i], masks[i]) for i in (0, 1, 4, 5)] + [(logits[2, :, :, :3], masks[2, :, :3])]
    expected = sum(sample_loss(y.detach(), m) for y, m in kept) / 2
    value = loss(logits, masks, [3, 3])
    torch.testing.assert_close(value.item(), expected, rtol=1e-5, atol=0)
    value.backward()
    assert (logits.grad[2, :, :, 3:] == 0).all()
    assert (logits.grad[3] == 0).all()
    assert (logits.grad[2, :, :, :3] != 0).any()


@each_loss
def test_deep_supervision(kind):
    """Weights 1, 1/2, 1/4 and 0 for the coarsest, divided by their sum; the masks at the middle of each pixel."""
    loss, sample_loss, classes = LOSSES[kind]
    _, masks = example(kind, size=(16, 8))
    levels = [torch.randn(6, classes, 16 // 2**i, 8 // 2**i) for i in range(4)]
    total = 0
    for i, weight in enumerate((1, 1 / 2, 1 / 4)):
        middle = 2**i // 2
        small = masks[:, middle :: 2**i, middle :: 2**i]
        total += weight * sum(sample_loss(y, m) for y, m in zip(levels[i], small, strict=True))
    levels[3][:] = torch.nan
    assert loss(levels, masks, [2, 4]).item() == pytest.approx(total / 1.75 / 2, rel=1e-5)
    assert torch.equal(loss(levels[:1], masks, [2, 4]), loss(levels[0], masks, [2, 4]))


@each_loss
def test_gradients_are_those_of_a_difference_quotient(kind):
    loss, sample_loss, _ = LOSSES[kind]
    logits, masks = example(kind)
    logits.requires_grad_()
    [grad] = torch.autograd.grad(loss(logits, masks, [1, 3, 2]), logits)
    step = torch.randn_like(logits)
    plus, minus = (
        sum(sample_loss(y, m) for y, m in zip(logits.detach().double() + e * step, masks, strict=True)) / 3
        for e in (1e-5, -1e-5)
    )
    assert float((grad * step).sum()) == pytest.approx((plus - minus) / 2e-5, rel=1e-3)


@each_loss
def test_low_precision_is_summed_in_float32(kind):
    loss, _, _ = LOSSES[kind]
    logits, masks = example(kind)
    low = logits.bfloat16()
    assert torch.equal(loss(low, masks, 2), loss(low.float(), masks, 2))


@each_loss
def test_what_the_losses_refuse(kind):
    loss, _, classes = LOSSES[kind]
    logits, masks = example(kind)
    with pytest.raises(TypeError, match=r"torch\.float32: expected torch\.int64"):
        loss(logits, masks.float(), 2)
    with pytest.raises(ValueError, match=r"masks \(6, 9, 5\)"):
        loss(logits, masks[..., :5], 2)
    with pytest.raises(ValueError, match=r"masks \(5, 9, 6\)"):
        loss(logits, masks[:5], [5])
    with pytest.raises(ValueError, match="logits have shape"):
        loss([], masks, 2)
    with pytest.raises(ValueError, match="5"):
        loss(logits, masks, [2, 3])
    with pytest.raises(ValueError, match=r"\(6, \d, 9, 6\): expected"):
        loss(torch.zeros(6, 2 if classes == 1 else 1, 9, 6), masks, 2)
