"""Training and evaluating GHNs."""

from .config import TrainConfig, make_config, read_config
from .data import ImageData, load_data
from .trainer import Trainer, train

__all__ = ["ImageData", "TrainConfig", "Trainer", "load_data", "make_config", "read_config", "train"]
