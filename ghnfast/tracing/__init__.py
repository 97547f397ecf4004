"""How a forward pass becomes traced operations: the tracer, and a rule per torch function.

Rules go by the function that is called and the shapes of its arguments, never by module classes or names. Some of
torch's own layers are known by their class, but only to get to the rule of their function sooner (`leaves`).
"""

from . import arithmetic, attention, attributes, draws, layers, pools, views
from .registry import RULES

__all__ = ["RULES", "arithmetic", "attention", "attributes", "draws", "layers", "pools", "views"]
