"""Timing on a device, on one that is made up: its clock advances by what is launched, the host's by every call."""

from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import pytest
import torch

from interconv_kernels import _device_time

FLUSH, KERNEL, HOST = 0.5, 0.25, 0.75  # milliseconds


class Gpu:
    """Work queues on the device. Python takes HOST ms for a call, and nothing for a replay."""

    def __init__(self, can_capture):
        self.can_capture = can_capture
        self.host = self.device = 0.0
        self.log = []
        self.capturing = False
        cuda = SimpleNamespace(
            CUDAGraph=lambda: SimpleNamespace(replay=lambda: self.launch("replay", KERNEL)),
            Event=lambda enable_timing: Event(self),
            current_stream=lambda: "stream",
            device=lambda device: nullcontext(),
            graph=self.graph,
            stream=lambda stream: nullcontext(),
            synchronize=lambda device=None: self.log.append("synchronize"),
        )
        memory = SimpleNamespace(zero_=lambda: self.launch("flush", FLUSH))
        self.torch = SimpleNamespace(cuda=cuda, uint8=torch.uint8, empty=lambda size, dtype, device: memory)

    def launch(self, name, time):
        self.log.append(name)
        self.device = max(self.device, self.host) + time

    def call(self):
        """What is timed."""
        if not self.capturing:
            self.host += HOST
            self.launch("call", KERNEL)

    @contextmanager
    def graph(self, graph, stream):
        if not self.can_capture:
            raise RuntimeError("operation not permitted when stream is capturing")
        self.capturing = True
        yield
        self.capturing = False


class Event:
    def __init__(self, gpu):
        self.gpu = gpu

    def record(self):
        self.time = max(self.gpu.device, self.gpu.host)

    def elapsed_time(self, end):
        return end.time - self.time


@pytest.mark.parametrize("can_capture", [True, False])
def test_the_device_is_timed_and_not_python(monkeypatch, can_capture, caplog):
    gpu = Gpu(can_capture)
    monkeypatch.setattr(_device_time, "torch", gpu.torch)
    monkeypatch.setattr(_device_time, "_stream", lambda device: "stream")
    caplog.set_level("INFO", logger="interconv_kernels")
    assert _device_time.milliseconds(gpu.call, torch.device("cuda")) == pytest.approx(KERNEL)
    assert gpu.log[:2] == ["synchronize", "call"]  # the call compiles, before the capture
    launched = [name for name in gpu.log[2:] if name != "synchronize"]
    name, flushes = ("replay", 1) if can_capture else ("call", 8)
    round_ = ["flush"] * flushes + [name]
    assert launched == round_ * (len(launched) // len(round_))
    assert launched.count(name) == 5 + _device_time.MAX_REPEATS
    assert ("timed without a CUDA graph" in caplog.text) == (not can_capture)
