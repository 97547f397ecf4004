"""The last step of decoding: a product, its normalization, and the parameters that repeat the result.

A block holds what is decoded for one parameter, at most as large as the decoder's own shape; the parameter repeats it.
`decode` and `decode_into` are the operation (`dispatch`); `naive_blocks`, `tile` and `store` define it (`naive`);
`targets` is what is decoded, `operators` what torch sees. csrc/decode is what runs on a CPU, kernels/decode.py on a
GPU. Source: Parameter Prediction for Unseen Deep Architectures (NeurIPS 2021), section 3.3 and appendix B.2.
"""

from .dispatch import decode, decode_into
from .naive import copy_all, naive_blocks, store, tile
from .operators import decode_into_op, decode_op, decode_to, triton_tables
from .parts import send_back
from .targets import (
    BFLOAT16,
    ELEMENT_BYTES,
    ELEMENTS,
    FINE,
    MEMORY,
    PRECISIONS,
    TARGET,
    DecodeSource,
    DecodeTargets,
    NotFinite,
    Role,
    Table,
    Target,
    TargetKind,
    as_table,
    as_tensor,
    contiguous_memory,
    joined,
    memory_table,
    normalization,
    product_runs,
    sizes_of,
)

__all__ = [
    "BFLOAT16",
    "ELEMENTS",
    "ELEMENT_BYTES",
    "FINE",
    "MEMORY",
    "PRECISIONS",
    "TARGET",
    "DecodeSource",
    "DecodeTargets",
    "NotFinite",
    "Role",
    "Table",
    "Target",
    "TargetKind",
    "as_table",
    "as_tensor",
    "contiguous_memory",
    "copy_all",
    "decode",
    "decode_into",
    "decode_into_op",
    "decode_op",
    "decode_to",
    "joined",
    "memory_table",
    "naive_blocks",
    "normalization",
    "product_runs",
    "send_back",
    "sizes_of",
    "store",
    "tile",
    "triton_tables",
]
