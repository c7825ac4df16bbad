"""Measurements that were never made."""

from benchmarks.machine import Machine
from benchmarks.results import Measurement, Results

ENVIRONMENT = {
    "device": "a processor",
    "dtype": "float32",
    "threads": 2,
    "torch": "2.13.0",
    "backends": {"cpp": "0.1.0"},
    "commit": "0123456789abcdef",
    "date": "2026-01-01T00:00:00+00:00",
}


def row(
    seconds,
    *,
    case="a",
    implementation="ours",
    memory_format="contiguous",
    direction="both",
    lengths=(2, 2),
    p20=None,
    p80=None,
    peak_bytes=100,
    kernel=3,
    channels=64,
    saved_bytes=0,
):
    """A measurement of a layer that takes so many seconds."""
    details = {"network": "square", "in_channels": channels, "out_channels": channels, "height": 8, "width": 8}
    details |= {"kernel": kernel, "stride": 1, "saved_bytes": saved_bytes, "flops": 10**9, "bytes": 10**6}
    quantiles = seconds if p20 is None else p20, seconds, seconds if p80 is None else p80
    return Measurement(case, implementation, memory_format, direction, list(lengths), *quantiles, peak_bytes, details)


def results(*rows, **environment):
    return Results(ENVIRONMENT | environment, list(rows), Machine(flops=1e11, bandwidth=1e10))
