"""`gated_sweep`: the implementation that fits where the tensors are."""

from __future__ import annotations

import torch
from torch import Tensor

from ...graph import Topology
from ..backend import are_recorded, autocasts, backend_for, is_eager, is_plain
from .naive import naive_gated_sweep
from .operators import RecordedSweep, device_gated_sweep, gated_sweep_op, native_gated_sweep, triton_tables
from .weights import SweepWeights


def gated_sweep(states: Tensor, topology: Topology, weights: SweepWeights) -> Tensor:
    """Update every node once in topological order, then once in reverse.

    m_v = sum over u at distance 1 of MLP(h_u) + sum over u at distance d <= 50 of MLP_ve(h_u) / d, from states that
    this sweep has already updated, then h_v = GRU(m_v, h_v). A message depends on its sender alone, so it is
    computed once, when the sender is updated. Differentiable once with respect to states and weights.

    Under autocast, it is computed and returned in the weights' dtype all the same: rounding would add up over its
    steps. On a GPU it waits for nothing; a CUDA graph can capture it once a first call has brought `topology` there.

    Args:
        states: (nodes, hid), the nodes' initial states.
        topology: the edges and, for virtual edges, the shortest paths (`GraphBatch.topology`).

    Returns:
        (nodes, hid), the nodes' final states.

    Raises:
        BackendError: see `GHNFAST_BACKEND`, and `GHNFAST_SWEEP`.
    """
    if autocasts(states):
        with torch.autocast(states.device.type, enabled=False):
            return gated_sweep(states.to(weights.gru.weight_input.dtype), topology, weights)
    backend = backend_for(states)
    if backend == "torch":
        return naive_gated_sweep(states, topology, weights)
    if is_plain([states, *weights.flat]):
        if backend == "cpp":
            return native_gated_sweep(states, weights.arrays(), topology.native)
        tables = triton_tables(topology, states.device)
        return device_gated_sweep(states, weights.flat, tables, topology.cutoff, False, topology.largest)[0]
    differentiated = are_recorded([states, *weights.flat])
    tables = (
        [torch.from_numpy(a) for a in topology.arrays] if backend == "cpp" else triton_tables(topology, states.device)
    )
    result: Tensor
    if differentiated and is_eager([states, *weights.flat]):
        result = RecordedSweep.apply(states, tables, topology.cutoff, topology.largest, *weights.flat)
    else:
        arguments = states, weights.flat, tables, topology.cutoff, differentiated, topology.largest
        result = gated_sweep_op(*arguments)[0]
    return result
