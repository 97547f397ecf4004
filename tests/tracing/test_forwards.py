"""What a forward may do: branch, loop, take and return what it likes, in whatever dtype."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.models import Net
from helpers.traced import (
    PACKED,
    A,
    B,
    Snapshot,
    check,
    conv,
    linear,
    plain_network,
    same,
    torch_attention,
    trace,
    weight,
)
from torch import Tensor, nn

# Control flow ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "taken", "other"), [(16, "big", "small"), (8, "small", "big")])
def test_branch_on_shape_takes_the_branch_of_the_given_shape(size: int, taken: str, other: str) -> None:
    model = Net(lambda m, x: m.big(x) if x.shape[-1] > 8 else m.small(x), big=conv(3, 8), small=conv(3, 8))
    graph = trace(model, input_shape=(3, size, size))
    check(graph, f"input > conv:{taken}.weight")
    assert graph.skipped == {f"{other}.weight": "the forward does not use it"}


def test_loop_until_the_image_is_small_repeats_the_layer() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        while x.shape[-1] > 4:
            x = F.max_pool2d(m.conv(x), 2)
        return x

    check(
        trace(Net(forward, conv=conv(3, 3))),
        "input > conv:conv.weight#1 > max_pool#1 > conv:conv.weight#2 > max_pool#2",
    )


def test_branch_on_a_buffer_value_is_taken() -> None:
    model = Net(lambda m, x: m.a(x) if m.mode.item() > 0 else m.b(x), a=conv(3, 8), b=conv(3, 8), mode=torch.tensor(1))
    check(trace(model), "input > conv:a.weight")


def test_branch_on_training_mode_follows_the_mode() -> None:
    model = Net(lambda m, x: (m.a(x), m.b(x)) if m.training else m.a(x), a=conv(3, 8), b=conv(3, 8))
    check(trace(model.train()), "input > conv:a.weight", "input > conv:b.weight")
    check(trace(model.eval()), "input > conv:a.weight")


# Outputs --------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Output:
    logits: Any
    extra: Any = None


Pair = namedtuple("Pair", "logits extra")
OUTPUTS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "tuple": lambda main, side: (main, side),
    "list": lambda main, side: [main, side],
    "dict": lambda main, side: {"out": main, "aux": side},
    "ordered dict": lambda main, side: OrderedDict(out=main, aux=side),
    "named tuple": Pair,
    "dataclass": Output,
    "nested": lambda main, side: {"a": [(main, None)], "b": Output((side,), {"loss": None, "n": 3})},
    "None first": lambda main, side: (None, main, [None, side]),
    "twice": lambda main, side: (main, main, side, side),
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_several_outputs(name: str) -> None:
    model = Net(
        lambda m, x: OUTPUTS[name](m.fc(m.a(x).mean((2, 3))), m.b(m.a(x))), a=conv(3, 8), b=conv(8, 8), fc=linear(8, 5)
    )
    graph = trace(model)
    check(graph, f"input > {A}#1 > glob_avg > conv:fc.weight", f"input > {A}#2 > {B}")
    assert graph.params[-1] == "fc.weight"


def test_output_that_does_not_depend_on_the_input_is_ignored() -> None:
    model = Net(lambda m, x: (m.a(x), m.w, torch.ones(3)), a=conv(3, 8), w=weight(3))
    graph = trace(model)
    check(graph, f"input > {A}")
    assert list(graph.skipped) == ["w"]


# Dtypes and devices ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtype_does_not_change_the_graph(dtype: torch.dtype) -> None:
    assert same(trace(plain_network().to(dtype)), trace(plain_network()))


def test_mixed_dtypes_trace() -> None:
    model = Net(lambda m, x: m.b(m.a(x).float()), a=conv(3, 8).half(), b=conv(8, 5))
    check(trace(model), f"input > {A} > {B}")


@pytest.mark.parametrize("stem", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("before", [torch.float16, torch.float32])
def test_images_that_the_first_weight_does_not_see(before: torch.dtype, stem: torch.dtype) -> None:
    """An adapter in a dtype of its own comes before the stem; values are read, so that dtypes have to be right."""

    def forward(m: Any, x: Tensor) -> Tensor:
        x = m.b(x).mean((2, 3))
        x = x if x.isfinite().all() else x * 0
        return m.a(x.to(before))

    graph = trace(Net(forward, a=linear(8, 5).to(before), b=conv(3, 8).to(stem)))
    assert graph.ran_on_numbers is not None
    check(graph, f"input > {B} > glob_avg > {A}")


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("on_numbers", [False, True])
def test_mixed_dtypes_with_a_norm_first(low: torch.dtype, on_numbers: bool) -> None:
    """The image is one that the convolutions take."""

    def forward(m: Any, x: Tensor) -> Tensor:
        features = m.a(m.norm(x))
        return m.b(features) if not on_numbers or features.mean() > -9 else features

    model = Net(forward, norm=nn.BatchNorm2d(3), a=conv(3, 8).to(low), b=conv(8, 5).to(low))
    graph = trace(model)
    assert (graph.ran_on_numbers is not None) is on_numbers
    assert {"norm.weight", "a.weight", "b.weight"} <= set(graph.params)


def test_meta_parameters_trace() -> None:
    with torch.device("meta"):
        model = plain_network()
    before = Snapshot(model)
    assert same(trace(model), trace(plain_network()))
    before.check(model)


def test_default_device_does_not_matter() -> None:
    model = plain_network()
    with torch.device("meta"):
        assert same(trace(model), trace(plain_network()))


# Inputs ---------------------------------------------------------------------------------------------------------------


def test_two_images_as_a_tuple() -> None:
    model = Net(lambda m, left, right: m.a(left) + m.b(right), a=conv(3, 8), b=conv(1, 8))
    graph = trace(model, example_inputs=(torch.zeros(2, 3, 8, 8), torch.zeros(2, 1, 8, 8)))
    check(graph, f"input > {A} > sum", f"input > {B} > sum")


def test_keyword_only_inputs_as_a_dict() -> None:
    def forward(m: Any, *, image: Tensor, scale: float, mask: Tensor | None = None) -> Tensor:
        assert mask is None
        return m.a(image * scale)

    check(
        trace(
            Net(forward, a=conv(3, 8)), example_inputs={"image": torch.zeros(1, 3, 8, 8), "scale": 0.5, "mask": None}
        ),
        f"input > {A}",
    )


def test_token_ids() -> None:
    model = Net(
        lambda m, ids: m.fc(m.att(x := m.words(ids), x, x)[0][:, 0]),
        words=nn.Embedding(50, 8),
        att=torch_attention(batch_first=True),
        fc=linear(8, 5),
    )
    graph = trace(model, example_inputs=(torch.randint(50, (2, 7), generator=torch.Generator().manual_seed(0)),))
    check(graph, f"input > {PACKED} > conv:fc.weight")
    assert list(graph.skipped) == ["words.weight"]


def test_nested_inputs() -> None:
    model = Net(lambda m, images, more: m.a(images[0]) + m.b(more["image"][0]), a=conv(3, 8), b=conv(3, 8))
    image = torch.zeros(2, 3, 8, 8)
    graph = trace(model, example_inputs=([image], {"image": (image,)}))
    check(graph, f"input > {A} > sum", f"input > {B} > sum")


def test_example_inputs_are_neither_changed_nor_read() -> None:
    image = torch.zeros(2, 3, 8, 8)
    trace(Net(lambda m, x: m.a(x.add_(1)), a=conv(3, 8)), example_inputs=(image,))
    assert torch.equal(image, torch.zeros(2, 3, 8, 8))
    assert not image.__dict__


@pytest.mark.parametrize("shape", [[3, 8, 8], torch.Size((3, 8, 8)), tuple(np.array([3, 8, 8]))])
def test_input_shape_of_any_integer_sequence(shape: Any) -> None:
    check(trace(Net(lambda m, x: m.a(x), a=conv(3, 8)), input_shape=shape), f"input > {A}")


def test_vector_input() -> None:
    model = nn.Sequential(nn.Linear(12, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 5))
    check(
        trace(model, input_shape=(12,)),
        "input > conv:0.weight > bias:0.bias > ln:1.weight > conv:3.weight > bias:3.bias",
    )
