"""Means with confidence intervals, and improvements with the paired t-test (section 4 of the paper)."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import bootstrap, ttest_rel

Key = TypeVar("Key", bound=Hashable)  # of a sample or a subject
RESAMPLES = 1000  # of the bootstrap, as in the paper


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % bootstrap confidence interval.

    Attributes:
        mean: the mean.
        low: the lower end of the interval; NaN for a single value.
        high: the upper end of the interval; NaN for a single value.
        count: the number of values.
        p: for an improvement, the p-value of the paired t-test; else NaN.
        sd: the standard deviation of the values (n - 1); NaN for a single value.
    """

    mean: float
    low: float
    high: float
    count: int
    p: float = math.nan
    sd: float = math.nan


def estimate(values: ArrayLike) -> Estimate:
    """The mean and its 95 % interval, the percentiles of the means of 1,000 bootstrap resamples.

    Args:
        values: [n].

    Raises:
        ValueError: no values.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0:
        raise ValueError("no values: expected at least one sample whose truth has a structure")
    if array.size == 1:
        return Estimate(float(array[0]), math.nan, math.nan, 1)
    result = bootstrap((array,), np.mean, n_resamples=RESAMPLES, method="percentile", rng=np.random.default_rng(0))
    interval = result.confidence_interval
    ends = float(interval.low), float(interval.high)
    return Estimate(float(array.mean()), *ends, array.size, sd=float(array.std(ddof=1)))


def improvement(ours: Mapping[Key, float], baseline: Mapping[Key, float]) -> Estimate:
    """The mean difference of two paired results, with its interval and p-value.

    Args:
        ours: a value for each key.
        baseline: a value for each of the same keys.

    Returns:
        The estimate of `ours` - `baseline`.

    Raises:
        ValueError: the keys differ, or there are none.
    """
    if ours.keys() != baseline.keys():
        raise ValueError(f"{len(ours.keys() ^ baseline.keys())} samples have only one score, expected two of each")
    first = np.array(list(ours.values()))
    second = np.array([baseline[key] for key in ours])
    found = estimate(first - second)
    # If all differences are equal, the t statistic is x / 0 (p = 0) or 0 / 0 (p = NaN).
    p = float(ttest_rel(first, second).pvalue) if len(first) > 1 else math.nan
    return replace(found, p=p)
