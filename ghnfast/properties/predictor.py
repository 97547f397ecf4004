"""`PropertyPredictor`: from vectors of architectures to a property."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import ConfigError, PropertyError
from ..optional import import_optional
from .ranking import NormalScores, Standardized, check_labels, check_size, kendall_tau, standardizer, unmasked
from .scales import most_probable

base: Any = import_optional("sklearn.base", "ghnfast.properties needs")
gaussian_process: Any = import_optional("sklearn.gaussian_process", "ghnfast.properties needs")
model_selection: Any = import_optional("sklearn.model_selection", "ghnfast.properties needs")
pipeline: Any = import_optional("sklearn.pipeline", "ghnfast.properties needs")
preprocessing: Any = import_optional("sklearn.preprocessing", "ghnfast.properties needs")
svm: Any = import_optional("sklearn.svm", "ghnfast.properties needs")
validation: Any = import_optional("sklearn.utils.validation", "ghnfast.properties needs")

METHODS = ("gp", "svr")
# The published grid (Knyazev et al., NeurIPS 2021, Appendix on property prediction).
GRID: dict[str, list[Any]] = {
    "C": [1, 10, 50, 100, 200, 500, 1000],
    "gamma": ["auto", 0.05, 0.1, 0.2, 0.5],
    "epsilon": [0.05, 0.1, 0.2],
}
FOLDS = 5
ACCEPTED = "vectors of finite numbers, as long as each other and as those of `fit`"
FAR = 1e50  # standard deviations
MOST_SEARCHED = 500  # labels that the scales of a Gaussian process are searched with: its time grows with their cube


class PropertyPredictor(base.RegressorMixin, base.BaseEstimator):
    """A scikit-learn regressor from vectors of architectures to a property, whose score is Kendall's tau.

    Args:
        method: "gp", a Gaussian process with a Matern kernel over standardized vectors, on the normal scores of the
            labels, with a scale for each number of the vectors (`ghnfast.properties.scales.most_probable`); or "svr",
            as published: a support vector regression with an rbf kernel on standardized labels, its C, gamma and
            epsilon from the published grid by 5-fold cross-validation.

    Attributes:
        n_features_in_: the width of the vectors that it was fitted with.
        model_: the fitted regressor of scikit-learn.
    """

    def __init__(self, method: str = "gp") -> None:
        self.method = method

    def fit(self, X: ArrayLike, y: ArrayLike) -> PropertyPredictor:
        """Fit to vectors and labels.

        Args:
            X: (networks, numbers), finite.
            y: (networks,), finite.

        Raises:
            ConfigError: `method` is something else.
            PropertyError: the labels are not as many as the networks, are not finite, are one, or are all the same;
                or the vectors are not finite.
        """
        if not isinstance(self.method, str) or self.method not in METHODS:
            raise ConfigError(f"method is {self.method!r:.80}; {', '.join(map(repr, METHODS))} are accepted")
        if y is None:
            raise PropertyError("requires y to be passed, but the target y is None; a list of labels is accepted")
        vectors, labels = self.vectors(X, reset=True), check_labels(y)
        if len(vectors) != len(labels):
            raise PropertyError(f"there are {len(vectors)} networks and {len(labels)} labels; one for each is accepted")
        check_size(labels, "labels")
        if (labels == labels[0]).all():
            raise PropertyError(
                f"all {len(labels)} labels are {labels[0]:g}; labels of two values or more are accepted"
            )
        self.labels_ = NormalScores(labels) if self.method == "gp" else Standardized(labels)
        self.model_ = (fit_process if self.method == "gp" else fit_svr)(vectors, self.labels_.scores)
        return self

    def predict(self, X: ArrayLike) -> NDArray[np.float64]:
        """(networks,): the property of each, in the labels' unit.

        Raises:
            PropertyError: the vectors have another width than those that it was fitted with, or are not finite.
        """
        validation.check_is_fitted(self, "model_")
        return self.labels_.back(self.model_.predict(self.vectors(X, reset=False)))

    def score(self, X: ArrayLike, y: ArrayLike, sample_weight: None = None) -> float:
        """Kendall's tau between labels and predictions.

        Raises:
            PropertyError: the labels are not as many as the networks, are not finite, or are one.
        """
        if sample_weight is not None:
            raise ConfigError("sample_weight was given; None is accepted: ranks have no weights")
        return kendall_tau(y, self.predict(X))

    def vectors(self, X: ArrayLike, reset: bool) -> NDArray[np.float64]:
        if hasattr(X, "toarray"):
            raise PropertyError("vectors are sparse; dense ones are accepted, as .toarray() gives them")
        try:
            checked: NDArray[np.float64] = validation.validate_data(
                self, unmasked(X), reset=reset, dtype=np.float64, ensure_min_samples=2 if reset else 1
            )
        # But TypeError, which scikit-learn asks of its estimators for objects that are no numbers.
        except (ValueError, OverflowError, RuntimeError) as error:
            least = "; two or more of them" if reset else ""
            raise PropertyError(f"{error}\n{ACCEPTED}{least} are accepted") from error
        check_size(checked, "vectors")
        return checked


def fit_process(vectors: NDArray[np.float64], scores: NDArray[np.float64]) -> Any:
    """A Gaussian process over standardized vectors."""
    scaled = standardizer().fit(vectors)
    points = scaled.transform(vectors)
    # Beyond it the kernel is zero, and squares of distances may be none.
    near = preprocessing.FunctionTransformer(np.clip, kw_args={"a_min": -FAR, "a_max": FAR})
    near.set_output(transform="default").fit(points)
    chosen = np.random.default_rng(0).permutation(len(points))[:MOST_SEARCHED]
    known = scores[chosen]
    scales = most_probable(points[chosen], (known - known.mean()) / (known.std() or 1.0))
    kernels = gaussian_process.kernels
    kernel = kernels.ConstantKernel(scales.amplitude) * kernels.Matern(scales.lengths, nu=2.5)
    kernel += kernels.WhiteKernel(scales.noise)
    process = gaussian_process.GaussianProcessRegressor(kernel, optimizer=None, normalize_y=True)
    return pipeline.make_pipeline(scaled, near, process.fit(points, scores))


def fit_svr(vectors: NDArray[np.float64], labels: NDArray[np.float64]) -> Any:
    """A support vector regression of the published grid."""
    folds = model_selection.KFold(min(FOLDS, len(labels)))
    search = model_selection.GridSearchCV(svm.SVR(kernel="rbf"), GRID, cv=folds, scoring="neg_mean_squared_error")
    return search.fit(vectors, labels).best_estimator_
