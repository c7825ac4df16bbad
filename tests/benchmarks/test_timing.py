"""Quantiles, interleaved calls and memory."""

import time

import pytest
import torch

from benchmarks.timing import interleave, peak_bytes, quantiles, saved_bytes

CPU = torch.device("cpu")


def test_quantiles():
    assert quantiles([float(x) for x in range(11)][::-1]) == pytest.approx((2, 5, 8))
    assert quantiles([3.0]) == (3, 3, 3)
    assert quantiles([1.0, 2.0]) == pytest.approx((1.2, 1.5, 1.8))


def test_calls_are_interleaved_after_a_round_of_warm_up():
    calls = []
    functions = {name: lambda name=name: calls.append(name) for name in "AB"}
    times = interleave(functions, 2, CPU, before={"B": lambda: calls.append("before B")})
    rounds = [calls[3 * i : 3 * i + 3] for i in range(3)]
    assert len(calls) == 9
    assert list(times) == ["A", "B"]
    assert all(each in (["A", "before B", "B"], ["before B", "B", "A"]) for each in rounds)


def test_no_call_always_follows_the_same_one():
    calls = []
    interleave({name: lambda name=name: calls.append(name) for name in "ABC"}, 20, CPU)
    rounds = {"".join(calls[i : i + 3]) for i in range(0, len(calls), 3)}
    assert len(rounds) == 6
    assert all(sorted(each) == ["A", "B", "C"] for each in rounds)


def test_only_the_call_is_timed():
    functions = {"short": lambda: None, "long": lambda: time.sleep(0.02)}
    times = interleave(functions, 3, CPU, before={"short": lambda: time.sleep(0.3)})
    assert times["short"].p80 < 0.2
    assert 0.02 <= times["long"].p20 <= times["long"].p50 <= times["long"].p80


def test_the_warm_up_is_not_timed():
    naps = iter([0.5, 0, 0])
    assert interleave({"A": lambda: time.sleep(next(naps))}, 2, CPU)["A"].p80 < 0.3


def test_peak_memory_is_what_a_call_holds_at_once():
    x = torch.ones(25_000)  # 100 kB
    assert peak_bytes(lambda: x + x, CPU) == 100_000
    assert peak_bytes(lambda: x.add_(x), CPU) == 0

    def one_after_the_other():
        for _ in range(3):
            torch.add(x, x)

    assert peak_bytes(one_after_the_other, CPU) == 100_000
    assert peak_bytes(lambda: [x + x for _ in range(3)], CPU) == 300_000


def test_memory_saved_for_the_backward_is_without_the_inputs():
    x = torch.ones(25_000, requires_grad=True)
    assert saved_bytes(lambda: x * x, (x,)) == 0  # the input itself
    assert saved_bytes(lambda: (x + x) * x, (x,)) == 100_000
    assert saved_bytes(lambda: (x + x) * x, ()) == 200_000
