"""Training GHNs, evaluating what they predict, and fine-tuning it."""

from .accuracy import accuracies, recalibrated
from .config import TrainConfig, make_config, read_config
from .data import ImageData, load_data
from .evaluate import baseline, evaluate, format_results
from .finetune import finetune, format_finetuning
from .networks import run_network
from .recipe import Recipe
from .run import train
from .step import Trainer

__all__ = [
    "ImageData",
    "Recipe",
    "TrainConfig",
    "Trainer",
    "accuracies",
    "baseline",
    "evaluate",
    "finetune",
    "format_finetuning",
    "format_results",
    "load_data",
    "make_config",
    "read_config",
    "recalibrated",
    "run_network",
    "train",
]
