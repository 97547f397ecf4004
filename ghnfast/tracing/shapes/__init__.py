"""Shapes of results that torch takes a tenth of a millisecond to compute on the meta device.

Its meta kernels of these functions are written in Python, and the first that runs imports sympy, many also torch's
compiler, which takes one to ten seconds. Each function here answers for the calls that models make,
mostly on contiguous tensors that are not empty, and whose results are contiguous; it answers None where torch itself
has to say what a call gives, or what is wrong with it.
"""

from .layouts import contiguous_layout
from .table import KEEPING, SHAPES, UNARY, changes_values_alone, kept_layout, result_dtype, result_shape

__all__ = [
    "KEEPING",
    "SHAPES",
    "UNARY",
    "changes_values_alone",
    "contiguous_layout",
    "kept_layout",
    "result_dtype",
    "result_shape",
]
