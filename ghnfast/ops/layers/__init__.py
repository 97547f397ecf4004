"""Linear layers of many sizes: what a GHN computes around its message passing, on a GPU in a few launches.

A `Layer` says what it reads and writes, and names its weights by their numbers; `Stages` are layers in the order that
they read each other's results. `naive_layers` defines what they compute; kernels/layers.py does. Only numbers in,
numbers out: what is differentiated is computed by the modules.
"""

from .layer import Activation, Layer, Stages, Weights, addresses_of, parts_of
from .naive import naive_embedding, naive_layers
from .operators import Launches, StageTables, arrays_of, begin_attention, embed, rest_of_attention, run_layers

__all__ = [
    "Activation",
    "Launches",
    "Layer",
    "StageTables",
    "Stages",
    "Weights",
    "addresses_of",
    "arrays_of",
    "begin_attention",
    "embed",
    "naive_embedding",
    "naive_layers",
    "parts_of",
    "rest_of_attention",
    "run_layers",
]
