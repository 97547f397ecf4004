"""Public search spaces as modules: NAS-Bench-201 and NAS-Bench-Macro, whose networks others have trained.

Their tables of trained networks are ground truth for predictors of properties (`ghnfast.properties`).
"""

from .names import SPACES, check_name, is_name, network_of
from .nas_bench_201 import nas_bench_201
from .nas_bench_macro import nas_bench_macro

__all__ = ["SPACES", "check_name", "is_name", "nas_bench_201", "nas_bench_macro", "network_of"]
