"""Every network of the paper under torch.compile: random ragged batches need at most two graphs.

One image alone would need a third: torch specializes graphs for sizes of 1. The second is for 16 images or more: on the
CPU, torch's own convolutions depend on that.
"""

import copy
import os

import pytest
import torch
import torch._dynamo
from interconv_seg import build
from interconv_seg.networks import FAMILIES

import interconv_kernels as ik

FEATURES = {"simpleunet": 4, "nnunet": (4, 6, 8), "swinunet": 6, "scribbleprompt": 4}
BATCHES = 50
BACKEND = os.environ.get("COMPILE_BACKEND", "inductor")  # "aot_eager": the graphs alone, in a third of the time


@pytest.fixture(autouse=True)
def fresh_compiler():
    """Deterministic filling is off: compiled code warns of it."""
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    torch.use_deterministic_algorithms(False)
    yield
    torch.use_deterministic_algorithms(True)


def batches(channels):
    """Images and sets: 2 to 5 sets of 1 to 6 images."""
    random = torch.Generator().manual_seed(0)
    for _ in range(BATCHES):
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


@pytest.mark.parametrize("placement", ["replace", "append"])
@pytest.mark.parametrize("name", FAMILIES)
def test_at_most_two_graphs(name, placement):
    channels = 3 if name == "scribbleprompt" else 1
    torch.manual_seed(0)
    model = build(name, placement, features=FEATURES[name], in_channels=channels, classes=3).train()
    options = {"fallback_random": True} if BACKEND == "inductor" else None
    compiled = torch.compile(copy.deepcopy(model), fullgraph=True, dynamic=True, backend=BACKEND, options=options)
    for i, (x, sets) in enumerate(batches(channels)):
        results = step(compiled, x, sets)
        if i % 10 == 0:
            for got, want in zip(results, step(model, x, sets), strict=True):
                assert ik.reference.relative_error(got, want) < 1e-3
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 2


@pytest.mark.parametrize("placement", ["replace", "append"])
def test_mode_reduce_overhead(placement):
    """On the CPU there are no CUDA graphs; the mode must change nothing."""
    model = build("simpleunet", placement, features=4, classes=3).eval()
    compiled = torch.compile(model, mode="reduce-overhead", fullgraph=True, dynamic=True)
    with torch.no_grad():
        for x, sets in list(batches(1))[:5]:
            torch.testing.assert_close(compiled(x, sets), model(x, sets), rtol=1e-4, atol=1e-5)
