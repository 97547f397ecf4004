"""Properties of architectures, such as accuracy or latency, from a GHN's node states.

Source: Knyazev et al., "Parameter Prediction for Unseen Deep Architectures", NeurIPS 2021, Section 5.2: the mean of the
node states, and a regression on it. An embedding is a scikit-learn transformer, a predictor a regressor; `make_model`
makes the pipeline of both:

    model = make_model().fit(networks, accuracies)
    model.score(others, their_accuracies)  # Kendall's tau

Needs scikit-learn and scipy (the extra `properties`).
"""

from .analysis import draw_map, nearest, project
from .embedding import ArchitectureEmbedding
from .evolution import Evolved, evolve
from .labels import read_labels
from .predicted import PredictedAccuracy
from .predictor import PropertyPredictor
from .ranking import kendall_tau
from .searching import Candidate, make_model, search

__all__ = [
    "ArchitectureEmbedding",
    "Candidate",
    "Evolved",
    "PredictedAccuracy",
    "PropertyPredictor",
    "draw_map",
    "evolve",
    "kendall_tau",
    "make_model",
    "nearest",
    "project",
    "read_labels",
    "search",
]
