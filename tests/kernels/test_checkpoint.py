"""torch.utils.checkpoint in networks that only pass x: every recomputation gets the sets of its own forward pass."""

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils import checkpoint as torch_checkpoint
from torch.utils.checkpoint import checkpoint, checkpoint_sequential, create_selective_checkpoint_contexts

import interconv_kernels as ik
from interconv_kernels import set_context

REENTRANT, NOT_REENTRANT = (partial(checkpoint, use_reentrant=kind) for kind in (True, False))
KEEP_RELU = partial(create_selective_checkpoint_contexts, [torch.ops.aten.relu.default])
KINDS = {
    "plain": lambda function, x: function(x),
    "reentrant": REENTRANT,
    "not reentrant": NOT_REENTRANT,
    "reentrant twice": lambda function, x: REENTRANT(lambda x: REENTRANT(function, x), x),
    "not reentrant twice": lambda function, x: NOT_REENTRANT(lambda x: NOT_REENTRANT(function, x), x),
    "reentrant in not": lambda function, x: NOT_REENTRANT(lambda x: REENTRANT(function, x), x),
    "not in reentrant": lambda function, x: REENTRANT(lambda x: NOT_REENTRANT(function, x), x),
    "without early stop": partial(NOT_REENTRANT, early_stop=False),
    "selective": partial(NOT_REENTRANT, context_fn=KEEP_RELU),
}
FIRST, SECOND = [1, 4, 1], [3, 3]  # of as many samples


class Network(nn.Module):
    """InterConv, then two InterConv layers within `checkpointed(function, x)`, then InterConv."""

    def __init__(self, checkpointed):
        super().__init__()
        self.checkpointed = checkpointed
        torch.manual_seed(0)
        self.layers = nn.ModuleList(ik.InterConv2d(c, 3, dtype=torch.float64) for c in (2, 3, 3, 3))

    def forward(self, x):
        x = self.checkpointed(self.middle, self.layers[0](x).sin())
        return self.layers[3](x)

    def middle(self, x):
        return self.layers[2](self.layers[1](x).relu()).relu()


def images(seed):
    return torch.randn(6, 2, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def expected(network, x, lengths):
    """The loss by the reference implementation."""
    first, second, third, last = (
        partial(ik.reference.interconv, weight=layer.weight, bias=layer.bias, lengths=lengths)
        for layer in network.layers
    )
    return last(third(second(first(x).sin()).relu()).relu()).square().sum()


def expected_grads(network, *batches):
    loss = sum(expected(network, x, lengths) for x, lengths in batches)
    return torch.autograd.grad(loss, list(network.parameters()))


def check_grads(network, *batches):
    for parameter, want in zip(network.parameters(), expected_grads(network, *batches), strict=True):
        torch.testing.assert_close(parameter.grad, want, rtol=1e-9, atol=1e-9)
        parameter.grad = None


def in_thread(function):
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(function).result()


def here(function):
    return function()


@pytest.mark.drop_in("PyTorch", "checkpointing: two batches in flight, backward in two threads, {kind}")
@pytest.mark.parametrize("run", [here, in_thread])
@pytest.mark.parametrize("kind", KINDS)
def test_two_batches_in_flight(kind, run):
    """Gradient accumulation, one backward pass for both, backward in the other order, within a block of other sets."""
    network = Network(KINDS[kind])
    model = ik.SetModel(network)
    batches = (images(0), FIRST), (images(1), SECOND)
    check_batches = partial(check_grads, network, *batches)

    def losses():
        return [model(x, ik.Sets.from_lengths(lengths)).square().sum() for x, lengths in batches]

    for loss in losses():
        run(loss.backward)
    check_batches()
    first, second = losses()
    run((first + second).backward)
    check_batches()
    for loss in reversed(losses()):
        run(loss.backward)
    check_batches()

    def backward_in_other_sets():
        with ik.use_sets([2, 2, 2]):
            (first + second).backward()

    first, second = losses()
    run(backward_in_other_sets)
    check_batches()
    assert set_context.current_sets() is None


@pytest.mark.drop_in("PyTorch", "checkpointing: two threads at once, {kind}")
@pytest.mark.parametrize("kind", ["reentrant", "not reentrant", "not in reentrant"])
def test_two_threads_at_once(kind):
    network = Network(KINDS[kind])
    barrier = threading.Barrier(2, timeout=30)

    def loss(seed, lengths):
        x = images(seed)
        with ik.use_sets([2, 2, 2]):
            barrier.wait()
            loss = ik.SetModel(network)(x, lengths).square().sum()
            barrier.wait()
            return loss + network(x).square().sum()

    with ThreadPoolExecutor(2) as threads:
        losses = list(threads.map(loss, (0, 1), (FIRST, SECOND)))
        list(threads.map(torch.Tensor.backward, losses))
    check_grads(network, *((images(i), lengths) for i in (0, 1) for lengths in ((FIRST, SECOND)[i], [2, 2, 2])))


@pytest.mark.drop_in("PyTorch", "checkpointing: use_sets inside the checkpointed part")
def test_blocks_inside_the_checkpointed_part_count():
    network = Network(KINDS["plain"])

    def part(x):
        with ik.use_sets(SECOND):
            return network(x)

    for kind in ("reentrant", "not reentrant", "not in reentrant"):
        x = images(0).requires_grad_()
        with ik.use_sets(FIRST):
            loss = KINDS[kind](part, x).square().sum()
        in_thread(loss.backward)
        check_grads(network, (images(0), SECOND))


@pytest.mark.drop_in("PyTorch", "checkpointing: checkpoint_sequential")
def test_checkpoint_sequential():
    network = Network(KINDS["plain"])
    middle = nn.Sequential(network.layers[1], nn.ReLU(), network.layers[2], nn.ReLU())
    for kind in (True, False):
        with ik.use_sets(FIRST):
            x = network.layers[0](images(0)).sin()
            loss = network.layers[3](checkpoint_sequential(middle, 2, x, use_reentrant=kind)).square().sum()
        in_thread(loss.backward)
        check_grads(network, (images(0), FIRST))


class OtherCheckpoint(torch.autograd.Function):
    """Reentrant checkpointing that is not torch's own."""

    @staticmethod
    def forward(ctx, function, x):
        ctx.function = function
        ctx.save_for_backward(x)
        with torch.no_grad():
            return function(x)

    @staticmethod
    def backward(ctx, g):
        x = ctx.saved_tensors[0].detach().requires_grad_()
        with torch.enable_grad():
            torch.autograd.backward(ctx.function(x), g)
        return None, x.grad


OTHER_KINDS = {
    "other": OtherCheckpoint.apply,
    "torch's in other": lambda function, x: OtherCheckpoint.apply(lambda x: REENTRANT(function, x), x),
}


@pytest.mark.drop_in(
    "PyTorch",
    "checkpointing: an implementation that is not torch's, {kind}",
    limitation="enter use_sets in the recomputed function",
)
@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_other_implementations_get_an_error_and_never_other_sets(kind):
    network = Network(OTHER_KINDS[kind])

    def loss():
        return ik.SetModel(network)(images(0), FIRST).square().sum()

    with pytest.raises(ValueError, match="no sets"):
        in_thread(loss().backward)
    with ik.use_sets(SECOND), pytest.raises(RuntimeError, match="in a backward pass"):
        loss().backward()
    network.zero_grad()
    network.middle = lambda x, middle=network.middle: in_block(middle, x)
    in_thread(loss().backward)
    check_grads(network, (images(0), FIRST))


def in_block(function, x):
    """What the error asks for."""
    with ik.use_sets(FIRST):
        return function(x)


def test_without_sets_nothing_is_wrapped():
    def function(x):
        return x.sin()

    assert set_context._keep_sets(function) is function
    frame = torch_checkpoint._CheckpointFrame(function, True, None, None)
    assert frame.recompute_fn is function
