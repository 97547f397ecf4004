"""Weights that fit a module, and those that do not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.checkpoint_cases import assert_same, load_into, message, module_of, says, small

SHAPES = {
    "conv.weight": (4, 3, 1, 1),
    "conv.bias": (4,),
    "ln.weight": (4,),
    "fc.weight": (2, 4),
    "k.weight": (2, 1, 3, 3),
}


def weights(**changes: Any) -> dict[str, torch.Tensor]:
    made = {name: torch.randn(shape) for name, shape in SHAPES.items()}
    return {**made, **{name.replace("_", "."): value for name, value in changes.items()}}


def test_load_into_converts_and_reshapes() -> None:
    module = module_of(SHAPES)
    given = weights(conv_weight=torch.randn(4, 3), fc_weight=torch.randn(4, 2, dtype=torch.float64).T)
    load_into(module, small(state_dict=given))
    state = module.state_dict()
    assert torch.equal(state["conv.weight"], given["conv.weight"].view(4, 3, 1, 1))
    assert torch.equal(state["fc.weight"], given["fc.weight"].float())
    assert all(value.dtype == torch.float32 for value in state.values())
    assert all(parameter.requires_grad for parameter in module.parameters())
    load_into(module.bfloat16(), small(state_dict=given))
    assert torch.equal(module.state_dict()["ln.weight"], given["ln.weight"].bfloat16())


def lacking(*names: str) -> dict[str, torch.Tensor]:
    return {name: value for name, value in weights().items() if name not in names}


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        (lacking("fc.weight"), ["missing keys: fc.weight (2, 4)"]),
        ({}, ["missing keys: conv.weight (4, 3, 1, 1), conv.bias (4,), ln.weight (4,) and 2 more"]),
        (weights(gnn_mlp=torch.zeros(7)), ["unexpected keys: gnn.mlp (7,)"]),
        (weights(fc_weight=torch.zeros(4, 2)), ["wrong shapes: fc.weight expected (2, 4), given (4, 2)"]),
        (weights(fc_weight=torch.zeros(8)), ["wrong shapes: fc.weight expected (2, 4), given (8,)"]),
        (weights(fc_weight=torch.zeros(2, 4, 1, 1)), ["fc.weight expected (2, 4), given (2, 4, 1, 1)"]),
        (weights(conv_weight=torch.zeros(3, 4)), ["conv.weight expected (4, 3, 1, 1), given (3, 4)"]),
        (weights(conv_weight=torch.zeros(12)), ["conv.weight expected (4, 3, 1, 1), given (12,)"]),
        (weights(k_weight=torch.zeros(2, 1)), ["k.weight expected (2, 1, 3, 3), given (2, 1)"]),
        (weights(ln_weight=torch.zeros(())), ["ln.weight expected (4,), given ()"]),
        (weights(ln_weight=torch.ones(4).long()), ["no floating-point numbers: ln.weight", "given torch.int64"]),
        (weights(ln_weight=torch.ones(4).bool()), ["no floating-point numbers: ln.weight", "given torch.bool"]),
        (weights(ln_weight=torch.ones(4) * 1j), ["no floating-point numbers: ln.weight", "given torch.complex64"]),
        (weights(conv_bias=torch.tensor([1, float("nan"), 1, 1])), ["NaN or infinite values: conv.bias (4,)"]),
        (weights(conv_bias=torch.tensor([1, 1, 1, -float("inf")])), ["NaN or infinite values: conv.bias (4,)"]),
        (weights(conv_bias=torch.full((4,), 1e300, dtype=torch.float64)), ["NaN or infinite", "in torch.float32"]),
        ({**lacking("ln.weight"), "x": torch.zeros(1)}, ["missing keys: ln.weight (4,); unexpected keys: x (1,)"]),
    ],
)
def test_misfits_change_nothing(given: dict[str, torch.Tensor], parts: list[str]) -> None:
    module = module_of(SHAPES)
    load_into(module, small(state_dict=weights()))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    text = message(load_into, module, small(state_dict=given, source="/some/ghn.pt"))
    says(text, "/some/ghn.pt", "nothing was loaded", *parts, "Accepted: finite floating-point weights")
    assert_same(dict(module.state_dict()), before)


def test_load_into_checks_tensors_made_by_hand() -> None:
    given = weights(ln_weight=torch.zeros(4, device="meta"))
    says(message(load_into, module_of(SHAPES), small(state_dict=given)), "here", "'ln.weight' (a tensor on meta")
