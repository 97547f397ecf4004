"""From a model to its architecture graph: `trace` runs its forward under a tracer, with a rule per torch function.

Rules go by the function that is called and the shapes of its arguments, never by module classes or names. Some of
torch's own layers are known by their class, but only to get to the rule of their function sooner (`leaves`).
"""

from . import arithmetic, attention, attributes, draws, layers, pools, views  # noqa: F401  (their rules)
from .members import Members, has_global_hooks, members_of
from .trace import trace, trace_members
from .tracer import Fate, fate_reason

__all__ = ["Fate", "Members", "fate_reason", "has_global_hooks", "members_of", "trace", "trace_members"]
