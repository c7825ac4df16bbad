"""Every network of the paper under torch.compile: random ragged batches need at most two graphs.

One image alone would need a third: torch specializes graphs for sizes of 1. The second is for 16 images or more: on the
CPU, torch's own convolutions depend on that. Inductor adds graphs of its own, since it sums more than 4096 values in
another way, so with it a network is compared to its baseline. torch also takes sizes that are equal in the first batch
for one size, here B + 1 = 3 and the channels of RGB, which would cost one graph more: `use_duck_shape` turns that off.
"""

import copy

import pytest
import torch
import torch._dynamo
import torch.fx.experimental._config
from interconv_seg import build
from interconv_seg.networks import FAMILIES

import interconv_kernels as ik

FEATURES = {"simpleunet": 4, "nnunet": (4, 6, 8), "swinunet": 6, "scribbleprompt": 4}


@pytest.fixture(autouse=True)
def fresh_compiler():
    """Deterministic filling is off: compiled code warns of it."""
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    torch.use_deterministic_algorithms(False)
    with torch.fx.experimental._config.patch(use_duck_shape=False):
        yield
    torch.use_deterministic_algorithms(True)


def batches(channels, count=50):
    """Images and sets: 2 to 5 sets of 1 to 6 images."""
    random = torch.Generator().manual_seed(0)
    for _ in range(count):
        number = int(torch.randint(2, 6, (), generator=random))
        lengths = torch.randint(1, 7, (number,), generator=random)
        yield torch.randn(int(lengths.sum()), channels, 32, 32, generator=random), ik.Sets.from_lengths(lengths)


def step(model, x, sets):
    torch.manual_seed(0)  # for stochastic depth
    logits = model(x, sets)
    logits = logits if isinstance(logits, list) else [logits]
    loss = sum(y.square().mean() for y in logits)
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    return torch.cat([y.detach().flatten() for y in logits]), torch.cat([g.flatten() for g in gradients])


def made(name, placement):
    torch.manual_seed(0)
    channels = 3 if name == "scribbleprompt" else 1
    return build(name, placement, features=FEATURES[name], in_channels=channels, classes=3).train(), channels


def graphs(model, batches, backend, every=10, **options):
    """The number of graphs that the batches need; the results of each `every`th are compared."""
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    compiled = torch.compile(copy.deepcopy(model), fullgraph=True, dynamic=True, backend=backend, **options)
    for i, (x, sets) in enumerate(batches):
        results = step(compiled, x, sets)
        if i % every == 0:
            for got, want in zip(results, step(model, x, sets), strict=True):
                assert ik.reference.relative_error(got, want) < 1e-3
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


@pytest.mark.drop_in("PyTorch", "torch.compile: {name}, {placement}: at most two graphs for {count} ragged batches")
@pytest.mark.parametrize("count", [12, pytest.param(50, marks=pytest.mark.slow)])
@pytest.mark.parametrize("placement", ["replace", "append"])
@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n == "swinunet")) for n in FAMILIES])
def test_at_most_two_graphs(name, placement, count):
    """Forward and backward."""
    model, channels = made(name, placement)
    assert graphs(model, batches(channels, count), "aot_eager") <= 2


@pytest.mark.slow
@pytest.mark.parametrize("placement", ["replace", "append"])
@pytest.mark.parametrize("name", FAMILIES)
def test_inductor_needs_no_more_graphs_than_for_the_baseline(name, placement):
    """And its results are right."""
    options = {"options": {"fallback_random": True}}
    model, channels = made(name, placement)
    needed = graphs(model, batches(channels), "inductor", **options)
    assert needed <= graphs(made(name, None)[0], batches(channels), "inductor", every=100, **options)


@pytest.mark.drop_in("PyTorch", 'torch.compile: mode="reduce-overhead" on the CPU, {placement}')
@pytest.mark.parametrize("placement", ["replace", pytest.param("append", marks=pytest.mark.slow)])
def test_mode_reduce_overhead(placement):
    """On the CPU there are no CUDA graphs; the mode must change nothing."""
    model = build("simpleunet", placement, features=4, classes=3).eval()
    compiled = torch.compile(model, mode="reduce-overhead", fullgraph=True, dynamic=True)
    with torch.no_grad():
        for x, sets in list(batches(1))[:5]:
            torch.testing.assert_close(compiled(x, sets), model(x, sets), rtol=1e-4, atol=1e-5)
