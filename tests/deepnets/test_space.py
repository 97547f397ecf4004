"""Graphs from genotypes against traces of the networks."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from helpers.golden_data import assert_same_graph, golden
from hypothesis import given, settings
from hypothesis import strategies as st

import ghnfast
from ghnfast import ArchGraph
from ghnfast.deepnets import OPERATIONS, DeepNets1M, Genotype, Network, graph_of
from ghnfast.deepnets.space import settings_of

PLAIN = Genotype([("conv_3x3", 0), ("skip_connect", 1)], [2], [("max_pool_3x3", 0), ("sep_conv_3x3", 1)], [2])
CSE = Genotype([("cse", 0), ("conv_1x1", 1)], [2], [("cse", 0), ("skip_connect", 1)], [2])
MSA = Genotype([("msa", 0), ("skip_connect", 1)], [2], [("avg_pool_3x3", 0), ("conv_1x1", 1)], [2])


def assert_same(graph: ArchGraph, traced: ArchGraph) -> None:
    """Equal in every field, in the same order."""
    for name in ("primitives", "edges", "level_offsets"):
        assert getattr(graph, name).tolist() == getattr(traced, name).tolist(), name
        assert getattr(graph, name).dtype == getattr(traced, name).dtype, name
    for name in (
        "shapes", "weights", "norm_biases", "classifier_weight", "classifier_bias", "parameter_shapes", "skipped",
    ):  # fmt: skip
        assert getattr(graph, name) == getattr(traced, name), name


def check(**args: Any) -> None:
    with torch.device("meta"):
        network = Network(**args).eval()
    settings = settings_of(**args)
    assert settings.parameters() == [(name, tuple(p.shape)) for name, p in network.named_parameters()]
    assert settings.elements() == sum(p.numel() for p in network.parameters())
    assert_same(graph_of(**args), ghnfast.trace(network))


@pytest.mark.parametrize("key", sorted(golden("deepnets")))
def test_golden_graph(key: str) -> None:
    entry = golden("deepnets")[key]
    args = {**entry["args"], "num_classes": 10, "is_imagenet_input": False}
    graph = graph_of(**args, genotype=entry["genotype"])
    assert_same_graph(graph, entry["graph"])
    check(**args, genotype=entry["genotype"])


@pytest.mark.parametrize("split", ["train", "search", "deep", "dense", "bnfree"])
@pytest.mark.parametrize("large_images", [False, True])
def test_sampled_graph(split: str, large_images: bool) -> None:
    """GHNFAST_TEST_NETWORKS=200 looks at 2,000 networks."""
    count = int(os.environ.get("GHNFAST_TEST_NETWORKS", "2"))
    for item in DeepNets1M(split, seed=9, size=count, large_images=large_images):
        network = item.build(light=True).eval()
        assert_same(item.graph, ghnfast.trace(network))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_genotype(data: st.DataObject) -> None:
    """Settings that the sampler never draws, too: attention without its stem, cells without output, few channels."""

    def cell() -> tuple[list[tuple[str, int]], list[int]]:
        steps = data.draw(st.integers(1, 3))
        edges = [
            (data.draw(st.sampled_from(OPERATIONS)), data.draw(st.integers(0, 1 + edge // 2)))
            for edge in range(2 * steps)
        ]
        return edges, data.draw(st.lists(st.integers(2, 1 + steps), min_size=1, unique=True))

    preproc = data.draw(st.booleans())
    (normal, normal_concat), (reduce, reduce_concat) = cell(), cell()
    if not preproc:
        normal_concat, reduce_concat = normal_concat[:1], reduce_concat[:1]
    args: dict[str, Any] = {
        "genotype": Genotype(normal, normal_concat, reduce, reduce_concat),
        "num_classes": 7,
        "C": data.draw(st.sampled_from([8, 16, 24])),
        "n_cells": data.draw(st.integers(1, 5)),
        "is_imagenet_input": data.draw(st.booleans()),
        "ks": data.draw(st.sampled_from([1, 3, 7])),
        "stem_pool": data.draw(st.booleans()),
        "stem_type": data.draw(st.integers(0, 1)),
        "norm": data.draw(st.sampled_from([None, "bnorm", "bn-track"])),
        "preproc": preproc,
        "C_mult": data.draw(st.integers(1, 2)) if preproc else 1,
        "fc_layers": data.draw(st.integers(0, 3)),
        "fc_dim": 12,
        "glob_avg": data.draw(st.booleans()),
        "is_vit": data.draw(st.sampled_from([None, True, False])),
        "imagenet_stride": data.draw(st.sampled_from([2, 4])),
    }
    if settings_of(**args).graph() is not None:
        check(**args)
        graph = graph_of(**args)
        assert graph.ops.count("cse") == sum(name is not None and name.endswith("fc2.weight") for name in graph.params)
        return
    with pytest.raises(ValueError, match="cut every path"):
        graph_of(**args)
    with torch.device("meta"), pytest.raises(ghnfast.TraceError, match="cut every path"):
        ghnfast.trace(Network(**args).eval())


@pytest.mark.parametrize("large_images", [False, True])
@pytest.mark.parametrize("genotype", [CSE, MSA])
def test_slices_and_heads_of_one_channel(genotype: Genotype, large_images: bool) -> None:
    """Reshapes that are copies and reshapes that are views are nothing to the graph."""
    for stem_type in (0, 1):
        for channels in (8, 16):
            check(
                genotype=genotype, num_classes=5, C=channels, n_cells=4, is_imagenet_input=large_images, is_vit=False,
                preproc=False, C_mult=1, stem_type=stem_type,
            )  # fmt: skip


def test_a_gate_beside_attention() -> None:
    beside = [("cse", 1), ("none", 0), ("msa", 0), ("cse", 2), ("none", 0), ("none", 0)]
    check(
        genotype=Genotype([("none", 0), ("sep_conv_3x3", 0)], [2], beside, [3]), num_classes=7, C=8, n_cells=2, ks=1,
        norm=None, preproc=False, C_mult=1, stem_type=0, is_imagenet_input=False,
    )  # fmt: skip


def test_a_genotype_without_a_path_is_named() -> None:
    nothing = Genotype([("none", 0), ("none", 1)], [2], [("none", 0), ("none", 1)], [2])
    with pytest.raises(ValueError, match=r"cut every path of its Genotype\(normal=\[\('none', 0\)"):
        graph_of(genotype=nothing, num_classes=10, C=16, n_cells=3)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"C": 0}, "C must be 1 or more"),
        ({"C": 15, "C_mult": 1, "genotype": "DARTS"}, "even number of channels"),
        ({"C": 4, "genotype": MSA}, "msa needs 8 channels"),
        ({"C": 1, "genotype": CSE, "stem_type": 0, "n_cells": 1}, "cse needs 2 channels"),
        ({"norm": "layer"}, "norm must be"),
        ({"genotype": "unknown"}, "is no genotype"),
        ({"preproc": False}, "preproc=False"),
        ({"n_cells": 0}, "n_cells"),
    ],
)
def test_what_a_network_refuses_is_refused(changed: dict[str, Any], message: str) -> None:
    args = {"genotype": PLAIN, "num_classes": 10, "C": 16, "n_cells": 3, **changed}
    with pytest.raises(ValueError, match=message):
        graph_of(**args)
