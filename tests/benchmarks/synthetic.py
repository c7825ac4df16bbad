"""Results that were never measured."""

from benchmarks.machine import Machine
from benchmarks.results import Results, Row

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
    seconds, *, case="a", form="ours", layout="NCHW", direction="both", lengths=(2, 2), kernel=3, channels=64, **more
):
    values = {
        "network": "square",
        "in_channels": channels,
        "out_channels": channels,
        "height": 8,
        "width": 8,
        "stride": 1,
    }
    values |= {"p20": seconds, "p80": seconds, "peak_bytes": 100, "saved_bytes": 0, "flops": 10**9, "bytes": 10**6}
    names = {"case": case, "form": form, "layout": layout, "direction": direction, "lengths": list(lengths)}
    return Row(**(values | names | {"kernel": kernel, "p50": seconds} | more))


def results(*rows, **environment):
    return Results(ENVIRONMENT | environment, Machine(flops=1e11, bandwidth=1e10), list(rows))
