"""GPUs that are not there: Triton's own launch path over `recording_driver.c`, on tensors that say they are on a GPU.

Within `Gpus().believed()`, `device="cuda:1"` makes a `GpuTensor`: memory on the CPU, on which the operators of PyTorch
compute, behind an address and a device that say GPU 1. The kernels of Triton are compiled and launched as on that GPU,
but do not run. What tests need is recorded: launches, copies from the host, and mistakes that a real GPU would report.
`GPUS` are of different architectures, except for the last, which is like GPU 1.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import torch
import triton
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.driver import CudaDriver
from triton.runtime import driver as triton_driver

SHARED_MEMORY = {80: 163, 90: 227, 100: 227, 120: 99}  # KB that a program may have, by architecture
GPUS = (80, 90, 100, 120, 90)
SOURCE = Path(__file__).parent / "recording_driver.c"
BUILD = Path(__file__).parents[2] / "build" / "gpu_without_gpu"


class Launch(ctypes.Structure):
    _fields_ = (
        ("kernel", ctypes.c_char * 64),
        ("gpu", ctypes.c_int),
        ("stream", ctypes.c_int),
        ("grid", ctypes.c_uint),
        ("threads", ctypes.c_uint),
        ("shared", ctypes.c_uint),
    )


class Copy(NamedTuple):
    """A copy from the host to a GPU."""

    pinned: bool
    non_blocking: bool


def build() -> Path:
    """The folder of libcuda.so.1, compiled once for each version of its source."""
    source = SOURCE.read_bytes()
    folder = BUILD / hashlib.sha256(source).hexdigest()[:16]
    library = folder / "libcuda.so.1"
    if not library.exists():
        folder.mkdir(parents=True, exist_ok=True)
        include = Path(triton.__file__).parent / "backends/nvidia/include"
        partial = folder / f"partial.{os.getpid()}"
        flags = ["-O1", "-shared", "-fPIC", f"-Wl,-soname,{library.name}", f"-I{include}"]
        compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
        subprocess.run([compiler, *flags, "-o", partial, SOURCE], check=True)
        partial.replace(library)  # another process may do the same at the same time
    return folder


class GpuTensor(torch.Tensor):
    """A tensor on a GPU that is not there. `host` holds its values."""

    host: torch.Tensor
    index: int

    @staticmethod
    def __new__(cls, host, index):
        strides, offset = host.stride(), host.storage_offset()
        made = torch.Tensor._make_wrapper_subclass(
            cls, host.shape, strides=strides, storage_offset=offset, dtype=host.dtype, device="cpu"
        )
        made.host, made.index = host, index
        return made

    device = property(lambda self: torch.device("cuda", self.index))
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)

    def get_device(self):
        return self.index

    def data_ptr(self):
        address = self.host.data_ptr()
        return address and address + (self.index + 1 << 56)

    def __repr__(self):
        return f"GpuTensor({tuple(self.shape)}, {self.dtype}, {self.device})"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise AssertionError(f"{func} on a GPU tensor outside of Gpus().believed()")


class Gpus(TorchDispatchMode):
    """`GPUS`, as long as they are `believed`.

    Attributes:
        driver: the recording driver's library.
        streams: the current stream of each GPU, as recording_driver.c numbers them.
        copies: the copies from the host.
    """

    def __init__(self):
        super().__init__()
        self.driver = ctypes.CDLL(str(build() / "libcuda.so.1"), mode=ctypes.RTLD_GLOBAL)
        self.streams = [1000 * index for index in range(len(GPUS))]
        self.copies: list[Copy] = []
        self.pinned: set[int] = set()  # addresses

    # --- the record ---

    def number(self, name: str) -> ctypes.c_int:
        """A variable of the driver, to read or to set."""
        return ctypes.c_int.in_dll(self.driver, name)

    def launches(self) -> list[Launch]:
        """The launches since the last call."""
        recorded = (Launch * 4096).in_dll(self.driver, "launches")
        made = [Launch.from_buffer_copy(launch) for launch in recorded[: self.number("num_launches").value]]
        self.number("num_launches").value = 0
        return made

    def check(self) -> None:
        """Fails if something was done that a real GPU would refuse."""
        error = (ctypes.c_char * 256).in_dll(self.driver, "first_error").value.decode()
        assert self.number("num_errors").value == 0, error

    @contextlib.contextmanager
    def capture(self):
        """Within it, whatever the capture of a CUDA graph forbids is an error."""
        self.number("capturing").value = 1
        try:
            yield
        finally:
            self.number("capturing").value = 0

    @contextlib.contextmanager
    def current(self, index: int):
        """Within it, GPU `index` is current."""
        before = self.exchange(index)
        try:
            yield
        finally:
            self.exchange(before)

    def exchange(self, index: int) -> int:
        current = self.number("current_gpu")
        before = current.value
        if index >= 0:
            current.value = index
        return before

    # --- torch and Triton believe it ---

    @contextlib.contextmanager
    def believed(self):
        """Within it, torch and Triton see these GPUs, with a new record."""
        for name in ("num_launches", "num_modules", "num_tensor_maps", "num_errors", "capturing", "current_gpu"):
            self.number(name).value = 0
        for index, architecture in enumerate(GPUS):
            (ctypes.c_int * 16).in_dll(self.driver, "shared_memory")[index] = SHARED_MEMORY[architecture] * 1024
        stand_ins = {
            "_lazy_init": lambda: None,
            "_exchange_device": self.exchange,
            "_maybe_exchange_device": self.exchange,
            "is_available": lambda: True,
            "current_device": lambda: self.number("current_gpu").value,
            "get_device_capability": lambda device=None: divmod(GPUS[torch.device(device).index or 0], 10),
            "get_device_name": lambda device=None: "no GPU",
            "is_current_stream_capturing": lambda: bool(self.number("capturing").value),
        }
        with contextlib.ExitStack() as patches:
            for name, stand_in in stand_ins.items():
                patches.enter_context(mock.patch.object(torch.cuda, name, stand_in))
            patches.enter_context(mock.patch.object(triton_driver, "_active", RecordingDriver(self)))
            patches.enter_context(self)
            yield self

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func.namespace == "interconv":
            with self:
                return func._op_dk(torch._C.DispatchKey.CompositeExplicitAutograd, *args, **kwargs)
        tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, torch.Tensor)]
        on_gpu = {x.index for x in tensors if isinstance(x, GpuTensor)}
        on_host = [x for x in tensors if not isinstance(x, GpuTensor) and x.dim()]
        source = next(iter(on_gpu), None)
        device = kwargs.get("device")
        target = source if device is None else (device.index or 0) if device.type == "cuda" else None
        copied = source != target and bool(tensors)
        assert len(on_gpu) <= 1, f"{func}: tensors on GPUs {on_gpu}"
        assert source is None or not on_host, f"{func}: tensors on GPU {source} and on the host"
        assert not (copied and target is None), f"{func} copies from GPU {source}, and waits for it"
        if copied and source is None:
            self.copies.append(Copy(tensors[0].data_ptr() in self.pinned, kwargs.get("non_blocking", False)))
        if func is torch.ops.aten._pin_memory.default:
            made = args[0].clone()
            self.pinned.add(made.data_ptr())
            return made
        if func is torch.ops.aten.is_pinned.default:
            return args[0].data_ptr() in self.pinned

        host_args, host_kwargs = tree_map(lambda x: x.host if isinstance(x, GpuTensor) else x, (args, kwargs))
        if target is not None and device is not None:
            host_kwargs["device"] = torch.device("cpu")
        out = func(*host_args, **host_kwargs)
        if target is None:
            return out
        assert not isinstance(out, (bool, int, float)), f"{func} reads from GPU {source}, and waits for it"
        if copied and func is torch.ops.aten._to_copy.default and out is host_args[0]:
            out = out.clone()
        # An operator in place returns one of its arguments.
        known = {id(x.host): x for x in tensors if isinstance(x, GpuTensor)}

        def wrap(x):
            if not isinstance(x, torch.Tensor):
                return x
            return known[id(x)] if id(x) in known else GpuTensor(x, target)

        return tree_map(wrap, out)


class RecordingDriver(CudaDriver):
    """Triton's own driver, which takes the current GPU and its stream from `Gpus`, as it takes them from torch."""

    def __init__(self, gpus: Gpus):
        os.environ["TRITON_LIBCUDA_PATH"] = str(build())
        super().__init__()
        self.get_current_device = lambda: gpus.number("current_gpu").value
        self.get_current_stream = lambda index: gpus.streams[index]

    def get_current_target(self):
        return GPUTarget("cuda", GPUS[self.get_current_device()], 32)
