"""Networks of public search spaces: the published counts of parameters, what runs, and what is refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import nas_tables
import pytest
import torch
from helpers.models import no_initialization
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import ghnfast
from ghnfast import ConfigError
from ghnfast.spaces import SPACES, is_name, nas_bench_201, nas_bench_macro, network_of
from ghnfast.spaces.nas_bench_201 import EXAMPLE, OPERATIONS, parse_cell

SHAPE = (3, 32, 32)
CODES = st.text("012", min_size=8, max_size=8)


@st.composite
def cells(draw: st.DrawFn) -> str:
    edge = st.sampled_from(OPERATIONS)
    return "+".join("".join(f"|{draw(edge)}~{source}" for source in range(node)) + "|" for node in (1, 2, 3))


def build(architecture: str) -> nn.Module:
    with no_initialization():
        return network_of(architecture)


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("row", range(0, 6000, 300))
def test_published_counts_of_nas_bench_201(row: int) -> None:
    (found,) = nas_tables.rows_of("nas-bench-201")[row : row + 1]
    # Millions with six digits.
    assert f"{count(build(found['architecture'])) / 1e6:.6g}" == f"{float(found['params']):.6g}"


@pytest.mark.parametrize("row", range(0, 4000, 200))
def test_published_counts_of_nas_bench_macro(row: int) -> None:
    (found,) = nas_tables.rows_of("nas-bench-macro")[row : row + 1]
    assert count(build(found["architecture"])) == int(found["params"])


def test_networks_say_what_images_they_take() -> None:
    for architecture, classes in ((EXAMPLE, 10), ("01220211", 7)):
        network = network_of(architecture, classes)
        graph = ghnfast.trace(network)
        assert graph.input_shape == SHAPE
        assert graph.num_classes == classes


@settings(max_examples=15, deadline=None)
@given(st.one_of(cells(), CODES))
def test_every_network_runs_and_has_a_graph(architecture: str) -> None:
    model = build(architecture)
    graph = ghnfast.trace(model, input_shape=SHAPE)
    names = {name for name, _ in model.named_parameters()}
    assert names == set(graph.parameter_shapes) | set(graph.skipped)
    with torch.device("meta"):
        assert model.to("meta")(torch.empty(2, *SHAPE)).shape == (2, 10)
    assert str(build(f" {architecture}\n")) == str(build(architecture))
    if "|" in architecture:
        assert parse_cell(re.sub(r"([|+~])", r" \1\n", architecture)) == parse_cell(architecture)


def test_what_no_path_reaches_has_no_node() -> None:
    architecture = "|none~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|nor_conv_1x1~0|none~1|nor_conv_1x1~2|"
    skipped = ghnfast.trace(nas_bench_201(architecture), input_shape=SHAPE).skipped
    assert skipped
    assert all(".1to2." in name for name in skipped)
    # With the same values nonetheless: those of a network whose sums have an input of zeros.
    nowhere = architecture.replace("nor_conv_3x3~1", "none~1")
    torch.manual_seed(0)
    with_it, without = nas_bench_201(architecture).eval(), nas_bench_201(nowhere).eval()
    without.load_state_dict(with_it.state_dict(), strict=False)
    images = torch.randn(2, *SHAPE)
    torch.testing.assert_close(with_it(images), without(images))


def test_a_cell_that_nothing_crosses_is_zero() -> None:
    model = nas_bench_201("|none~0|+|none~0|nor_conv_1x1~1|+|none~0|none~1|nor_conv_3x3~2|").eval()
    first, second = model(torch.randn(2, *SHAPE))
    torch.testing.assert_close(first, second)
    assert ghnfast.trace(model, input_shape=SHAPE).classifier_weight is not None


def test_other_classes() -> None:
    assert nas_bench_201(EXAMPLE, num_classes=7).classifier.out_features == 7
    assert nas_bench_macro("01220211", 120).classifier.out_features == 120


@pytest.mark.parametrize("make", [*SPACES.values(), network_of])
@pytest.mark.parametrize(
    "architecture",
    ["", "resnet50", "|", "0122021", "012202113", "01220213", "٠١٢٠١٢٠١", 1220211, None, [], EXAMPLE[:-1], EXAMPLE[1:],
     f"{EXAMPLE}+|none~0|", EXAMPLE.replace("~1", "~0"), EXAMPLE.replace("none", "None"), EXAMPLE.replace("+", "-"),
     EXAMPLE.replace("avg_pool_3x3", "max_pool_3x3"), EXAMPLE.replace("~0", ""), EXAMPLE.replace("|", "||")],
)  # fmt: skip
def test_what_is_no_network(make: Callable[[Any], nn.Module], architecture: Any) -> None:
    with pytest.raises(ConfigError, match=r"accepted|An example") as caught:
        make(architecture)
    assert isinstance(caught.value, ValueError)
    assert not is_name(architecture) or "|" in architecture


@pytest.mark.parametrize("classes", [0, -1, 2.5, None, "10", True, 1 << 40])
def test_class_counts_that_are_none(classes: Any) -> None:
    for make, architecture in ((nas_bench_201, EXAMPLE), (nas_bench_macro, "01220211")):
        with pytest.raises(ConfigError, match="num_classes"):
            make(architecture, num_classes=classes)
