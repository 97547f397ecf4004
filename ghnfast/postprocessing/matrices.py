"""A weight as a matrix: its noise, and its orthogonal form."""

from __future__ import annotations

import math

import torch
from torch import Tensor

BLOCK = 1 << 22  # numbers of a weight that are looked at at once, in float64


def transformed(weight: Tensor, orth: bool, beta: float, generator: torch.Generator) -> Tensor:
    """A weight with noise, and orthogonal, in new memory; see `postprocess`."""
    dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
    rows = weight.reshape(len(weight), -1)
    is_wide = rows.shape[0] < rows.shape[1]
    matrix = (rows.T if is_wide else rows).to(dtype, copy=True, memory_format=torch.contiguous_format)
    if beta > 0:
        noise = torch.randn(matrix.shape, generator=generator, dtype=dtype, device="cpu").to(matrix.device)
        matrix.add_(noise.mul_(beta * correlation_deviation(matrix)))
        del noise
    if orth:
        matrix = orthogonal(matrix)
    return (matrix.T if is_wide else matrix).reshape(weight.shape)


def correlation_deviation(matrix: Tensor) -> float:
    """The standard deviation of `corrcoef` of the rows of a matrix (n, m), without making that (n, n).

    With rows z of mean 0 and norm 1, the correlations are Z Z'. Their sum is the squared norm of the sum of the rows,
    and the sum of their squares that of the squares of the Gram matrix Z' Z, which is (m, m).
    """
    columns = matrix.shape[1]
    total = torch.zeros(columns, dtype=torch.float64, device=matrix.device)
    gram = torch.zeros(columns, columns, dtype=torch.float64, device=matrix.device)
    rows = 0
    for block in matrix.split(max(1, BLOCK // columns)):
        block = block[block.amax(1) != block.amin(1)].double()
        block /= block.abs().amax(1, keepdim=True)
        block -= block.mean(1, keepdim=True)
        block /= block.abs().amax(1, keepdim=True)  # the squares of small numbers would be zero
        block /= torch.linalg.vector_norm(block, dim=1, keepdim=True)
        gram.addmm_(block.T, block)
        total += block.sum(0)
        rows += len(block)
    count = rows**2
    if count < 2:
        return 0.0
    squares = gram.square_().sum() - total.dot(total).square() / count
    return math.sqrt(max(float(squares), 0.0) / (count - 1))


def orthogonal(matrix: Tensor) -> Tensor:
    """Orthonormal columns, from the first to the last column of a matrix (n, m), n >= m: Q times the signs of R."""
    q, r = torch.linalg.qr(matrix)
    signs = torch.where(r.diagonal() < 0, -1.0, 1.0).to(q.dtype)
    return q.mul_(signs)
