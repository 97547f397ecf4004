"""In-place operations: what is written into a tensor reaches those that share its memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.models import Net
from helpers.traced import A, B, C, D, abc, arrows, check, conv, label_of, labels, linear, sum_in_place, trace
from torch import Tensor, nn


def sum_by_method(m: Any, x: Tensor) -> Tensor:
    x = m.a(x)
    x.add_(m.b(x))
    return m.c(x)


def alias_of_sum(m: Any, x: Tensor) -> Tensor:
    x = m.a(x)
    identity = x
    x += m.b(x)
    return m.c(identity)


@pytest.mark.parametrize("function", [sum_in_place, sum_by_method, alias_of_sum])
def test_in_place_sum_is_a_sum(function: Callable[..., Any]) -> None:
    check(trace(abc(function)), f"input > {A} > {B} > sum > {C}", f"{A} > sum")


def test_clone_keeps_the_earlier_value() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        x = m.a(x)
        out = x.clone()
        out += m.b(x)
        return m.d(torch.cat([x, out], 1))

    graph = trace(Net(forward, a=conv(3, 8), b=conv(8, 8), d=conv(16, 5)))
    check(graph, f"input > {A} > {B} > sum > concat > {D}", f"{A} > sum", f"{A} > concat")


@pytest.mark.parametrize(
    "activate",
    [
        lambda y: F.relu(y, inplace=True),
        lambda y: F.relu(y, True),
        torch.relu_,
        Tensor.relu_,
        nn.ReLU(inplace=True),
        nn.ReLU6(inplace=True),
        nn.Hardswish(inplace=True),
        nn.SiLU(inplace=True),
        lambda y: F.leaky_relu(y, 0.1, True),
        lambda y: F.dropout(y, 0.5, True, True),
        lambda y: y.clamp_(0, 6),
        lambda y: y.mul_(2),
        lambda y: y.div_(2).sub_(1),
    ],
)
def test_residual_use_after_an_in_place_activation(activate: Callable[[Tensor], Tensor]) -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        y = m.a(x)
        z = activate(y)
        return m.c(m.b(z) + y)

    check(trace(abc(forward)), f"input > {A} > {B} > sum > {C}", f"{A} > sum")


def test_assignment_to_a_slice_joins_both_values() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        x = m.a(x)
        x[:, :3] = m.b(x)[:, :3]
        return m.c(x)

    check(trace(abc(forward)), f"input > {A} > {B} > {C}", f"{A} > {C}")


def test_addition_to_a_slice_is_a_sum_within_the_whole() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        x = m.a(x)
        x[:, :3] += m.b(x)[:, :3]
        return m.c(x)

    check(trace(abc(forward)), f"input > {A} > {B} > sum > {C}", f"{A} > sum", f"{A} > {C}")


def test_assignment_of_a_constant_to_a_slice_changes_nothing() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        x = m.a(x)
        x[:, 0] = 0
        x[x > 1] = 1
        x.masked_fill_(x < 0, 0.0)
        return m.c(x)

    check(trace(abc(forward)), f"input > {A} > {C}")


def assign(out: Tensor, first: Tensor, second: Tensor) -> None:
    out[:, :4], out[:, 4:] = first, second


def copy_into_parts(out: Tensor, first: Tensor, second: Tensor) -> None:
    out[:, :4].copy_(first)
    out.narrow(1, 4, 4).copy_(second)


def index_add(out: Tensor, first: Tensor, second: Tensor) -> None:
    out.index_add_(1, torch.arange(4), first)
    out.index_copy_(1, torch.arange(4, 8), second)


MAKERS: dict[str, Callable[[Tensor], Tensor]] = {
    "new_zeros": lambda x: x.new_zeros(2, 8, 16, 16),
    "device": lambda x: torch.zeros(2, 8, 16, 16, device=x.device, dtype=x.dtype),
    "default_device": lambda x: torch.zeros(2, 8, 16, 16),
    "zeros_like": lambda x: torch.zeros_like(x[:, :1]).repeat(1, 8, 1, 1),
}


@pytest.mark.parametrize("fill", [assign, copy_into_parts, index_add])
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_tensor_that_is_filled_in_pieces_comes_from_all_of_them(
    fill: Callable[..., None], make: Callable[[Tensor], Tensor]
) -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        out = make(x)
        fill(out, m.a(x), m.b(x))
        return m.c(out)

    check(trace(Net(forward, a=conv(3, 4), b=conv(3, 4), c=conv(8, 5))), f"input > {A} > {C}", f"input > {B} > {C}")


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_additions_to_parts_of_a_constant_are_not_lost(make: Callable[[Tensor], Tensor]) -> None:
    """Which parts overlap is not the graph's business: whether there is a sum is left open."""

    def forward(m: Any, x: Tensor) -> Tensor:
        out = make(x)
        out[:, :4].add_(m.a(x))
        out[:, 4:] += m.b(x)
        return m.c(out)

    graph = trace(Net(forward, a=conv(3, 4), b=conv(3, 4), c=conv(8, 5)))
    assert {label_of(token) for token in (A, B, C)} <= set(labels(graph))


def test_results_that_are_written_to_an_out_argument() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        y = m.a(x)
        out = torch.empty_like(y)
        torch.mul(y, 2, out=out)
        return m.c(out)

    with torch.no_grad():
        check(trace(abc(forward)), f"input > {A} > {C}")


def test_copy_into_an_empty_tensor_is_the_copied_value() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        y = m.a(x)
        return m.c(torch.empty_like(y).copy_(y))

    check(trace(abc(forward)), f"input > {A} > {C}")


@pytest.mark.parametrize(
    "alias",
    [lambda x: x.view_as(x), lambda x: x.transpose(2, 3), lambda x: x[:], lambda x: x.detach(), lambda x: x.data],
)
def test_write_through_a_view_reaches_what_it_is_a_view_of(alias: Callable[[Tensor], Tensor]) -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        x = m.a(x)
        view = alias(x)
        view += m.b(x)
        return m.c(x)

    edges = arrows(trace(abc(forward)))
    assert {f"{A} > sum", f"{B} > sum", f"sum > {C}"} <= set(edges)


def test_view_that_was_taken_before_a_write_sees_it() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        x = m.a(x)
        tokens = x.flatten(2)
        x += m.b(x)
        return m.head(tokens.mean(2))

    graph = trace(Net(forward, a=conv(3, 8), b=conv(8, 8), head=linear(8, 5)))
    check(graph, f"input > {A} > {B} > sum > glob_avg > conv:head.weight", f"{A} > sum")


def test_write_to_one_chunk_does_not_reach_the_other() -> None:
    def forward(m: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        left, right = m.a(x).chunk(2, 1)
        left = left + m.b(right)
        return m.c(left), m.d(right)

    graph = trace(Net(forward, a=conv(3, 8), b=conv(4, 4), c=conv(4, 5), d=conv(4, 5)))
    check(graph, f"input > {A} > {B} > sum > {C}", f"{A} > sum", f"{A} > {D}")


def test_chunks_that_are_updated_in_turn() -> None:
    """A reversible block: each half is added to in place from the other one."""

    def forward(m: Any, x: Tensor) -> Tensor:
        left, right = m.a(x).chunk(2, 1)
        left += m.b(right)
        right += m.c(left)
        return m.d(torch.cat([left, right], 1))

    graph = trace(Net(forward, a=conv(3, 8), b=conv(4, 4), c=conv(4, 4), d=conv(8, 5)))
    check(
        graph,
        f"input > {A} > {B} > sum#1 > {C} > sum#2 > concat > {D}",
        f"{A} > sum#1 > concat",
        f"{A} > sum#2",
    )
