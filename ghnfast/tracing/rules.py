"""A rule per torch function: what a call of it does to the architecture graph.

Rules go by the function that is called and the shapes of its arguments, never by module classes or names. Each module
that is imported here registers some.
"""

from . import arithmetic, attention, attributes, draws, layers, pools, products, views  # noqa: F401
from .registry import RULES

__all__ = ["RULES"]
