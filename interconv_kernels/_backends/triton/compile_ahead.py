"""Compiles the kernels that calls launch, in parallel threads, before the calls are made."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest import mock

import triton
from triton.runtime import JITFunction

from . import interpreted


def compile_ahead(calls: Iterable[Callable[[], object]]) -> int:
    """Compiles what the calls launch, without running it; a kernel that does not compile fails when it is launched.

    The calls are made with every launch left out, so their results mean nothing. They must launch from this thread,
    which a backward pass of autograd does not.

    Args:
        calls: functions that launch kernels.

    Returns:
        The number of kernels that were compiled, or loaded from Triton's cache; 0 in the interpreter.
    """
    if interpreted():
        return 0
    launch = JITFunction.run

    def compile_only(function: Any, *arguments: Any, warmup: bool, **named: Any) -> Any:
        return launch(function, *arguments, warmup=True, **named)

    with (
        ThreadPoolExecutor(os.cpu_count()) as threads,
        triton.AsyncCompileMode(threads, ignore_errors=True) as mode,
        mock.patch.object(JITFunction, "run", compile_only),
    ):
        for call in calls:
            call()
    return len(mode.future_kernels)
