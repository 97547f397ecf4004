"""How a forward pass becomes traced operations: the tracer, and a rule per torch function.

Rules go by the function that is called and the shapes of its arguments, never by module classes or names.
"""

from . import arithmetic, attention, attributes, layers, pools, views
from .registry import RULES

__all__ = ["RULES", "arithmetic", "attention", "attributes", "layers", "pools", "views"]
