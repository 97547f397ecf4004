"""Gated message passing over architecture graphs.

`gated_sweep` is the operation (`dispatch`); `naive_gated_sweep` defines it (`naive`); `operators` is what torch sees.
csrc/sweep is what runs on a CPU, kernels/sweep.py on a GPU. Source: Graph HyperNetworks (Zhang et al., ICLR 2019),
equations 3 and 4, and Parameter Prediction for Unseen Deep Architectures (NeurIPS 2021), equation 4, for the virtual
edges.
"""

from .choice import Sweep, chosen_sweep, sweep_asked_for
from .dispatch import gated_sweep
from .naive import apply_mlp, naive_gated_sweep
from .operators import gated_sweep_op, triton_tables
from .weights import GruWeights, MlpWeights, SweepWeights

__all__ = [
    "GruWeights",
    "MlpWeights",
    "Sweep",
    "SweepWeights",
    "apply_mlp",
    "chosen_sweep",
    "gated_sweep",
    "gated_sweep_op",
    "naive_gated_sweep",
    "sweep_asked_for",
    "triton_tables",
]
