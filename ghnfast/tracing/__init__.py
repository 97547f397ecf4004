"""From a model to its architecture graph: `trace` runs its forward under a tracer, with a rule per torch function.

Some of torch's own layers are known by their class, but only to get to the rule of their function sooner (`leaves`).
"""

from .members import Members, has_global_hooks, members_of
from .operations import Fate, Kind, fate_reason
from .trace import trace, trace_members

__all__ = ["Fate", "Kind", "Members", "fate_reason", "has_global_hooks", "members_of", "trace", "trace_members"]
