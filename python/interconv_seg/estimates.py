"""Means with confidence intervals, and improvements with the paired t-test (paper, section 4)."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import bootstrap, ttest_rel

Key = TypeVar("Key", bound=Hashable)  # of a sample or a subject
RUNS = 1000  # of the bootstrap, as in the paper


@dataclass(frozen=True)
class Estimate:
    """A mean over `count` values, with its 95 % bootstrap confidence interval (`low`, `high`; NaN for a single value)
    and, for an improvement, the p-value of the paired t-test (else NaN)."""

    mean: float
    low: float
    high: float
    count: int
    p: float = math.nan


def estimate(values: ArrayLike) -> Estimate:
    """The mean of `values` [n] and its 95 % interval: percentiles of the means of 1,000 resamples.

    Raises:
        ValueError: no values.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0:
        raise ValueError("no values to take the mean of: expected at least one sample whose truth has a structure")
    if array.size == 1:
        return Estimate(float(array[0]), math.nan, math.nan, 1)
    result = bootstrap((array,), np.mean, n_resamples=RUNS, method="percentile", rng=np.random.default_rng(0))
    interval = result.confidence_interval
    return Estimate(float(array.mean()), float(interval.low), float(interval.high), array.size)


def improvement(ours: Mapping[Key, float], baseline: Mapping[Key, float]) -> Estimate:
    """The mean of `ours` - `baseline`, paired by their keys, with interval and p-value.

    Raises:
        ValueError: the keys differ, or there are none.
    """
    if ours.keys() != baseline.keys():
        raise ValueError(f"{len(ours.keys() ^ baseline.keys())} samples have one score, expected two of each")
    first = np.array(list(ours.values()))
    second = np.array([baseline[key] for key in ours])
    found = estimate(first - second)
    # of equal differences, the t statistic is x / 0: certain, or 0 / 0, undefined
    p = float(ttest_rel(first, second).pvalue) if len(first) > 1 else math.nan
    return Estimate(found.mean, found.low, found.high, found.count, p)
