"""What every space accepts."""

from __future__ import annotations

from operator import index

from ..errors import ConfigError

MOST_CLASSES = 1 << 24
IMAGE_SHAPE = (3, 32, 32)  # what the networks were trained on, and say that they take


def check_classes(num_classes: int) -> int:
    """The number of classes.

    Raises:
        ConfigError: it is none.
    """
    try:
        number = index(num_classes)
    except TypeError:
        number = 0
    if isinstance(num_classes, bool) or not 1 <= number <= MOST_CLASSES:
        raise ConfigError(f"num_classes is {num_classes!r:.80}; 1 to {MOST_CLASSES} are accepted")
    return number
