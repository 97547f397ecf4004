"""What rounding the operands of the last product does: emulated on the CPU, for a GPU rounds in the same way."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.models import torchvision_model
from sizes import size

import ghnfast
from ghnfast.graph import GraphBatch
from ghnfast.ops.decode import DecodeSource, TargetKind, naive_blocks
from ghnfast.prediction import prepare
from ghnfast.tracing.members import members_of

# Bits of the significand of a float32 that operands keep, with the leading one.
MODEL = size("resnet50", "resnet18")
BITS = {"tf32": 11, "bfloat16": 8}


def rounded(values: torch.Tensor, bits: int) -> torch.Tensor:
    """To the nearest number with that many bits."""
    scale = torch.exp2(bits - torch.frexp(values).exponent.float())
    return torch.round(values * scale) / scale


@pytest.mark.parametrize("precision", BITS)
def test_precision(benchmark: Any, ghn: ghnfast.GHN, precision: str) -> None:
    """The largest error of a kernel of ResNet-50 with several cells, relative to its largest value."""
    model = torchvision_model(MODEL)
    batch = GraphBatch([ghnfast.trace(model)])
    job = prepare([model], [members_of(model)], batch, True, ghn.request)
    with torch.no_grad():
        source = ghn.decode_source(ghn.node_states(batch, None), job.layout, None)
        bits = BITS[precision]
        others = source._replace(hidden=rounded(source.hidden, bits), weight=rounded(source.weight, bits))

        def blocks(source: DecodeSource) -> list[torch.Tensor]:
            return naive_blocks(source, job.layout.targets)

        exact, found = blocks(source), benchmark.pedantic(blocks, args=(others,), rounds=size(3, 1))
    errors = [
        float((a - b).abs().max() / a.abs().max())
        for a, b, target in zip(exact, found, job.layout.targets, strict=True)
        if target.kind == TargetKind.PRODUCT and target.cells > 1
    ]
    benchmark.extra_info.update(model=MODEL, precision=precision, largest_error=max(errors))
