"""The exceptions and warnings of ghnfast. Each message names what was given and what is accepted."""


class GhnfastError(Exception):
    """Base class of every error that ghnfast raises on purpose."""


class DomainWarning(UserWarning):
    """The GHN was trained for other images or classes: what it predicts has the right scale, but not this knowledge."""


class TraceError(GhnfastError, RuntimeError):
    """The model could not be traced: its forward failed, or it has nothing to trace."""


class GraphError(GhnfastError, ValueError):
    """An architecture graph is not consistent, or something was asked of it that it does not have."""


class ConfigError(GhnfastError, ValueError):
    """A setting has no meaning, or settings do not go together: of a GHN, a network, a genotype or a data set."""


class CheckpointError(GhnfastError, ValueError):
    """A GHN checkpoint could not be found, read or verified, or does not fit its configuration."""


class PredictError(GhnfastError, RuntimeError):
    """Parameters could not be predicted, or not be postprocessed. The model is as it was before the call."""


class DatasetError(GhnfastError, ValueError):
    """Files of DeepNets-1M could not be found or read, or are not what they should be."""


class NetworkIndexError(GhnfastError, IndexError):
    """A data set has no network of this number."""


class BackendError(GhnfastError, ValueError):
    """The implementation that `GHNFAST_BACKEND` asks for does not exist, or cannot be used here."""


class MissingPackageError(GhnfastError, ImportError):
    """An optional package that is needed here is not installed; the message says which command installs it."""


class TrainingError(GhnfastError, ValueError):
    """A training run or an evaluation cannot start or go on: its data, configuration or checkpoint is not usable."""


class CalibrationError(GhnfastError, ValueError):
    """Running statistics could not be estimated from the given images. The model is as it was before the call."""


class PropertyError(GhnfastError, ValueError):
    """Labels, vectors or predictions of properties are not what they should be, or do not belong together."""


class UsageError(GhnfastError):
    """The command line asks for something that cannot be done."""
