"""What the launches of backend "triton" ask of a CUDA driver: how often they compile, what they cost the host, and on
which GPU and stream they run. Nothing is computed: tests/interpreted checks the results."""

import random

import pytest
import torch

pytest.importorskip("triton", reason="triton has no wheel for this platform")
import triton
from gpu import GPUS
from triton.runtime import JITFunction

import interconv_kernels as ik
from interconv_kernels._backends.triton import conv_kernels, launch, set_kernels

ARCHITECTURES = {80: 0, 90: 1, 100: 2, 120: 3}  # the GPU of each
LIKE_GPU_1 = 4  # of the same architecture
architectures = pytest.mark.parametrize("index", ARCHITECTURES.values(), ids=[f"sm_{cc}" for cc in ARCHITECTURES])


class Layer:
    """A layer in bfloat16 on GPU `index`."""

    def __init__(self, index, channels=64, kernel=3, algorithm="fused"):
        self.device = torch.device("cuda", index)
        self.channels, self.algorithm = channels, algorithm
        made = ik.InterConv2d(channels, channels, kernel).to(torch.bfloat16).to(memory_format=torch.channels_last)
        self.weight, self.bias = (x.detach().to(self.device).requires_grad_() for x in (made.weight, made.bias))

    def batch(self, lengths, size):
        """(u, sets) on the GPU."""
        u = torch.randn(sum(lengths), self.channels, *size, dtype=torch.bfloat16, device=self.device)
        u = u.contiguous(memory_format=torch.channels_last).requires_grad_()
        return u, ik.Sets.from_lengths(lengths, self.device)

    def forward(self, batch):
        return ik.interconv2d(batch[0], self.weight, self.bias, batch[1], algorithm=self.algorithm, backend="triton")

    def both(self, batch):
        y = self.forward(batch)
        y.backward(torch.ones_like(y))
        return y


def ragged(numbers):
    """(lengths, size) of a random batch, of sizes that no compilation may depend on."""
    lengths = [numbers.randint(1, 9) for _ in range(numbers.randint(1, 8))]
    return lengths, (numbers.randint(9, 20), numbers.randint(9, 20))


@pytest.fixture
def never_compiled(monkeypatch):
    """As in a new process."""
    monkeypatch.setattr(launch, "_compiled", {})
    for module in (set_kernels, conv_kernels):
        for kernel in vars(module).values():
            if isinstance(kernel, JITFunction):
                kernel.device_caches.clear()


# --- compilations -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", [0, 1], ids=["sm_80", "sm_90"])
@pytest.mark.parametrize("channels", [64, 23])
@pytest.mark.parametrize("kernel", [3, 1])
def test_ragged_batches_compile_few_variants(gpus, never_compiled, monkeypatch, index, channels, kernel):
    variants = {}  # the batch that asked for it first

    def keep(*, key, fn, **more):
        variants.setdefault((fn.name, key), batch)
        return True  # neither compiles nor launches

    monkeypatch.setattr(triton.knobs.runtime, "jit_cache_hook", keep)
    layer, numbers = Layer(index, channels, kernel), random.Random(0)
    for batch in range(50):
        lengths, size = ragged(numbers)
        if kernel == 3 and batch % 10 == 9:  # a 1x1 layer is computed by other kernels where sets are long
            lengths.append(numbers.randint(60, 80))
        layer.both(layer.batch(lengths, size))
    assert len(variants) <= 14
    assert max(variants.values()) < 20


@architectures
def test_500_launches(gpus, index):
    """Few for each call, and no tensor map or launch that a GPU would refuse."""
    layer, numbers = Layer(index), random.Random(index)
    for _ in range(50):
        lengths, size = ragged(numbers)
        batch = layer.batch([2, *lengths[:6]], size)
        y = layer.forward(batch)
        assert len(gpus.launches()) == 3
        y.backward(torch.ones_like(y))
        assert len(gpus.launches()) == 7
    assert (gpus.number("num_tensor_maps").value > 0) == (GPUS[index] >= 90)


# --- the host's part --------------------------------------------------------------------------------------------------


def test_a_variant_goes_through_tritons_dispatch_once(gpus, monkeypatch):
    def refuse(*arguments, **more):
        raise AssertionError("Triton's dispatch")

    layer = Layer(1)
    layer.both(layer.batch([2, 3], (6, 5)))
    gpus.launches()
    monkeypatch.setattr(JITFunction, "run", refuse)
    layer.both(layer.batch([4, 1, 2], (7, 9)))
    assert len(gpus.launches()) == 10


def test_a_cuda_graph_can_capture_a_layer(gpus):
    """Nothing is loaded, read back, waited for, or copied from the host."""
    layer = Layer(1)
    batch = layer.batch([2, 3], (6, 5))
    layer.both(batch)
    gpus.launches()
    copies, modules = len(gpus.copies), gpus.number("num_modules").value
    with gpus.capture():
        layer.both(batch)
    assert len(gpus.launches()) == 10
    assert (len(gpus.copies), gpus.number("num_modules").value) == (copies, modules)


def test_a_capture_without_a_run_before_it_is_refused(gpus, never_compiled):
    layer = Layer(1)
    batch = layer.batch([2, 3], (6, 5))
    with gpus.capture(), pytest.raises(RuntimeError, match="cuModuleLoadData in a capture"):
        layer.forward(batch)
    gpus.number("num_errors").value = 0


@pytest.mark.parametrize(("lengths", "copies"), [([2, 3], 2), ([2, 0, 3], 4)])
def test_sets_are_copied_without_waiting(gpus, lengths, copies):
    sets = ik.Sets.from_lengths(lengths, device="cuda:1")
    assert sets.device == torch.device("cuda:1")
    assert gpus.copies == [(True, True)] * copies  # pinned, non_blocking


# --- several GPUs and streams -----------------------------------------------------------------------------------------


def places(gpus):
    return {(launch.gpu, launch.stream) for launch in gpus.launches()}


@pytest.mark.parametrize("algorithm", ["concat", "split", "centered", "fused"])
def test_layers_run_where_their_tensors_are(gpus, algorithm):
    """On the current stream of that GPU, while another GPU is current."""
    layer = Layer(1, algorithm=algorithm)
    gpus.streams[1] = 1007
    y = layer.both(layer.batch([2, 3], (6, 5)))
    assert places(gpus) == {(1, 1007)}
    assert y.device == layer.weight.grad.device == layer.bias.grad.device == layer.device
    assert torch.cuda.current_device() == 0


def test_a_model_on_two_gpus(gpus):
    """Of the same architecture: each has the kernels loaded, and each is launched on its own stream."""
    first, second = Layer(1), Layer(LIKE_GPU_1)
    lengths, size = [2, 3], (6, 5)
    for stream in (1, 2):
        gpus.streams[1], gpus.streams[LIKE_GPU_1] = 1000 + stream, 1000 * LIKE_GPU_1 + stream
        y = first.forward(first.batch(lengths, size))
        assert places(gpus) == {(1, 1000 + stream)}
        u, sets = second.batch(lengths, size)
        with gpus.current(LIKE_GPU_1):
            z = second.forward((u + y.detach().to(second.device), sets))
        assert places(gpus) == {(LIKE_GPU_1, 1000 * LIKE_GPU_1 + stream)}
        assert z.device == second.device


def test_a_read_from_a_gpu_is_refused(gpus):
    x = torch.ones(3, device="cuda:1")
    for read in (torch.Tensor.item, bool):
        with pytest.raises(AssertionError, match="from GPU 1, and waits for it"):
            read(x.sum())


def test_the_driver_knows_an_address_on_another_gpu(gpus):
    x = torch.randn(4, 8, device="cuda:1")
    offsets = torch.tensor([0, 4], dtype=torch.int32).to("cuda:1")
    out = torch.empty(1, 8, device="cuda:1")
    constants = {"MEAN": True, "ACC": triton.language.float32, "BLOCK": 512, "VECTOR": 1}
    with pytest.raises(ValueError, match="cannot be accessed"):
        set_kernels.set_reduce_kernel[(1,)](x, offsets, out, out, 8, **constants)
    gpus.number("num_errors").value = 0
