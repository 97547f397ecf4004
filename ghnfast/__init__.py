"""ghnfast: predict all parameters of a neural network in milliseconds with a Graph HyperNetwork (GHN).

    import ghnfast
    ghnfast.predict(model, "ghn2-imagenet")

`ghnfast.vision` (torchvision helpers), `ghnfast.deepnets` (the DeepNets-1M search space), `ghnfast.spaces` (public
search spaces) and `ghnfast.properties` (predictors of properties) are imported on their own.
"""

from importlib.metadata import version

from . import starting as starting  # first: the others import torch
from .calibration import calibrate
from .checkpoints import available
from .errors import (
    BackendError,
    CalibrationError,
    CheckpointError,
    ConfigError,
    DatasetError,
    DomainWarning,
    GhnfastError,
    GraphError,
    MissingPackageError,
    NetworkIndexError,
    PredictError,
    PropertyError,
    TraceError,
    TrainingError,
    UsageError,
)
from .graph import ArchGraph
from .nn import GHN
from .postprocessing import postprocess
from .predict import load, predict
from .prediction import Report
from .tracing import trace

__version__ = version("ghnfast")

__all__ = [
    "GHN",
    "ArchGraph",
    "BackendError",
    "CalibrationError",
    "CheckpointError",
    "ConfigError",
    "DatasetError",
    "DomainWarning",
    "GhnfastError",
    "GraphError",
    "MissingPackageError",
    "NetworkIndexError",
    "PredictError",
    "PropertyError",
    "Report",
    "TraceError",
    "TrainingError",
    "UsageError",
    "__version__",
    "available",
    "calibrate",
    "load",
    "postprocess",
    "predict",
    "trace",
]
