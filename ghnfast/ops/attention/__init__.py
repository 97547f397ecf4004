"""Attention within the graphs of a batch, with a bias by distance.

`attention` is the operation (`dispatch`); `naive_attention` defines it (`naive`); `operators` is what torch sees;
`relations` is what the bias depends on. csrc/attention is what runs on a CPU, kernels/attention.py on a GPU. Source: Do
Transformers Really Perform Bad for Graph Representation? (Ying et al., NeurIPS 2021), equation 6, and Can We Scale
Transformers to Predict Parameters of Diverse ImageNet Models? (Knyazev et al., ICML 2023), section 3.
"""

from .dispatch import attention
from .naive import naive_attention
from .relations import CODES, Relations, relations_of

__all__ = ["CODES", "Relations", "attention", "naive_attention", "relations_of"]
