"""Training GHNs, and evaluating what they predict."""

from .config import TrainConfig, make_config, read_config
from .data import ImageData, load_data
from .evaluate import accuracies, baseline, evaluate, format_results, recalibrated
from .run import train
from .step import Trainer

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
