"""Training GHNs, and evaluating what they predict."""

from .config import TrainConfig, make_config, read_config
from .data import ImageData, load_data
from .evaluate import accuracies, baseline, evaluate, format_results, recalibrated
from .trainer import Trainer, train

__all__ = [
    "ImageData",
    "TrainConfig",
    "Trainer",
    "accuracies",
    "baseline",
    "evaluate",
    "format_results",
    "load_data",
    "make_config",
    "read_config",
    "recalibrated",
    "train",
]
