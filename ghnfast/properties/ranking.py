"""How well a predictor ranks: Kendall's tau; and labels as ranks."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import PropertyError
from ..optional import import_optional

preprocessing: Any = import_optional("sklearn.preprocessing", "ghnfast.properties needs")
stats: Any = import_optional("scipy.stats", "ghnfast.properties needs")
validation: Any = import_optional("sklearn.utils.validation", "ghnfast.properties needs")


def kendall_tau(labels: ArrayLike, predictions: ArrayLike) -> float:
    """Kendall's tau-b of two lists of numbers: 1 where they rank alike, -1 where in reverse, 0 where one has no order.

    Source: Kendall, "The treatment of ties in ranking problems", Biometrika 1945.

    Raises:
        PropertyError: they are not two lists of as many finite numbers, two or more.
    """
    first, second = check_labels(labels), check_labels(predictions, "predictions")
    if len(first) != len(second):
        raise PropertyError(f"there are {len(first)} labels and {len(second)} predictions; one for each is accepted")
    tau = float(stats.kendalltau(first, second).statistic)
    return 0.0 if np.isnan(tau) else tau


def unmasked(values: Any) -> Any:
    """An array whose masked numbers are NaN; anything else as it is. numpy and scikit-learn forget masks."""
    return np.ma.filled(values.astype(np.float64), np.nan) if isinstance(values, np.ma.MaskedArray) else values


def as_numbers(values: Any) -> NDArray[np.float64]:
    """Values as real numbers; what is masked is none of them.

    Raises:
        ValueError, TypeError, OverflowError, RuntimeError: numpy or torch cannot convert them.
        PropertyError: they are complex, or dates or times; it is a ValueError.
    """
    values = unmasked(values)
    kind = np.asarray(values).dtype.kind
    if kind in "cmM":  # numpy would leave out a part of them
        raise PropertyError("complex ones" if kind == "c" else "dates or times")
    return np.asarray(values, dtype=np.float64)


NO_NUMBERS = (ValueError, TypeError, OverflowError, RuntimeError)  # what `as_numbers` raises
LARGEST = 1e100  # squares of larger numbers are none


def check_size(numbers: NDArray[np.float64], what: str) -> None:
    largest = float(np.abs(numbers).max(initial=0.0))
    if not largest <= LARGEST:  # or NaN, for which scikit-learn does not look where it is told to assume finite numbers
        raise PropertyError(f"{what} have a number of the size {largest:g}; up to {LARGEST:g} is accepted")


def check_labels(labels: ArrayLike, what: str = "labels") -> NDArray[np.float64]:
    """Labels as (n,) numbers, n >= 2.

    Raises:
        PropertyError: they are none.
    """
    try:
        array = as_numbers(labels)
    except NO_NUMBERS as error:
        raise PropertyError(f"{what} are no numbers ({error}); a list of finite numbers is accepted") from error
    if array.ndim == 2 and array.shape[1] == 1:
        array = validation.column_or_1d(array, warn=True)  # as all regressors of scikit-learn do
    if array.ndim != 1:
        raise PropertyError(f"{what} have the shape {array.shape}; one number for each network is accepted")
    wrong = np.flatnonzero(~np.isfinite(array))
    if wrong.size:
        raise PropertyError(
            f"{what} contain NaN or infinity: {array[wrong[0]]} at position {wrong[0]}, {wrong.size} in all; finite "
            "numbers are accepted"
        )
    if len(array) < 2:
        raise PropertyError(
            f"{len(array)} sample of {what} was given (n_samples={len(array)}); two or more are accepted"
        )
    return array


def standardizer() -> Any:
    """Standardizes vectors to arrays, also where `sklearn.set_config` asks all transformers for data frames."""
    return preprocessing.StandardScaler().set_output(transform="default")


class NormalScores:
    """Labels as normal scores of their ranks, and back: what is far out pulls no more than its rank does.

    Source: Blom, "Statistical Estimates and Transformed Beta-Variables", 1958. Equal labels have the mean of their
    ranks. Back, scores between two labels are interpolated, those beyond the outermost go on in a straight line, so
    that no two predictions become equal.
    """

    def __init__(self, labels: NDArray[np.float64]) -> None:
        ranks = stats.rankdata(labels)
        self.scores = stats.norm.ppf((ranks - 0.5) / len(labels))
        self.known, first = np.unique(self.scores, return_index=True)
        self.labels = labels[first]

    def back(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        known, labels = self.known, self.labels
        if len(known) == 1:
            return np.full(len(scores), labels[0])
        found = np.interp(scores, known, labels)
        slope = (labels[-1] - labels[0]) / (known[-1] - known[0])
        below, above = scores < known[0], scores > known[-1]
        found[below] = labels[0] + slope * (scores[below] - known[0])
        found[above] = labels[-1] + slope * (scores[above] - known[-1])
        return found


class Standardized:
    """Labels with mean 0 and standard deviation 1, and back."""

    def __init__(self, labels: NDArray[np.float64]) -> None:
        # Squares of small numbers are 0. By a power of two, which changes nothing else.
        self.exponent = int(np.frexp(np.abs(labels).max())[1])
        shares = np.ldexp(labels, -self.exponent)
        self.mean, self.deviation = float(shares.mean()), float(shares.std()) or 1.0
        self.scores = (shares - self.mean) / self.deviation

    def back(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        found: NDArray[np.float64] = np.ldexp(self.mean + self.deviation * scores, self.exponent)
        return found
