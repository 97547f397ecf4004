"""`ArchGraph` as an object: what it takes, what it refuses, and that it survives pickling."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers.models import torchvision_model
from hypothesis import given, settings
from hypothesis import strategies as st

import ghnfast
from ghnfast import GHN, ArchGraph, GhnfastError, GraphError, PredictError
from ghnfast.deepnets import DeepNets1M

MODELS = ("resnet18", "squeezenet1_1", "vit_b_16", "densenet121", "mobilenet_v3_small")


@pytest.fixture(scope="module")
def graph() -> ArchGraph:
    return ghnfast.trace(torchvision_model("squeezenet1_1"))


def fields_of(graph: ArchGraph) -> dict[str, Any]:
    """Copies of a graph's attributes."""
    return {each.name: copy.deepcopy(getattr(graph, each.name)) for each in dataclasses.fields(ArchGraph)}


def assert_same(found: ArchGraph, wanted: ArchGraph) -> None:
    ours, theirs = fields_of(found), fields_of(wanted)
    for name, value in ours.items():
        if isinstance(value, np.ndarray):
            assert value.dtype == theirs[name].dtype
            assert np.array_equal(value, theirs[name]), name
        else:
            assert value == theirs[name], name


@pytest.mark.parametrize("name", MODELS)
def test_traced_graphs_pass_the_checks_that_tracing_leaves_out(name: str) -> None:
    traced = ghnfast.trace(torchvision_model(name))
    assert_same(ArchGraph(**fields_of(traced)), traced)


@pytest.mark.parametrize("split", ["train", "wide", "deep", "dense", "bnfree"])
def test_sampled_graphs_pass_them_too(split: str) -> None:
    for item in DeepNets1M(split, size=20):
        assert_same(ArchGraph(**fields_of(item.graph)), item.graph)


COPIES = (copy.copy, copy.deepcopy, lambda graph: pickle.loads(pickle.dumps(graph)))


@pytest.mark.parametrize("made", COPIES)
def test_copies_are_equal(graph: ArchGraph, made: Callable[[ArchGraph], ArchGraph]) -> None:
    _ = graph.shape_table  # which is computed, and not part of a copy
    assert_same(made(graph), graph)


@pytest.mark.parametrize("made", [*COPIES, dataclasses.replace])
def test_what_is_derived_of_a_graph_stays_with_it(graph: ArchGraph, made: Callable[[ArchGraph], ArchGraph]) -> None:
    wanted, described = pickle.dumps(graph), repr(graph)
    graph.derived["key"] = lambda: "nothing that could be pickled"
    assert made(graph).derived == {}
    assert graph.derived.pop("key")() == "nothing that could be pickled"
    assert graph.derived is graph.derived
    graph.derived[1] = 2
    assert (pickle.dumps(graph), repr(graph)) == (wanted, described)


def test_arrays_and_sequences_of_other_types_are_taken(graph: ArchGraph) -> None:
    given = fields_of(graph)
    given["primitives"], given["edges"] = given["primitives"].tolist(), given["edges"].astype(np.uint64)
    given["shapes"] = tuple(None if shape is None else list(map(np.int64, shape)) for shape in given["shapes"])
    given["weights"] = tuple(given["weights"])
    assert_same(ArchGraph(**given), graph)
    alone = ArchGraph([9], [], [0, 1], [None], [None], [None])  # type: ignore[arg-type]
    assert (alone.ops, alone.edges.shape, alone.depth) == (["input"], (0, 2), 1)


def swapped(array: Any, a: int, b: int) -> Any:
    array[[a, b]] = array[[b, a]]
    return array


# What is wrong with a graph: the attribute, how it is changed, and what the message has.
WRONG: list[tuple[str, Callable[[Any], Any], str]] = [
    ("primitives", lambda a: a + 15, "primitives has numbers"),
    ("primitives", lambda a: -a, "primitives has numbers from -"),
    ("primitives", lambda a: a.astype(float), "primitives is float64"),
    ("primitives", lambda a: a[:-1], "edges has numbers|level_offsets"),
    ("primitives", lambda a: a[None], "primitives is int8"),
    ("primitives", lambda a: ["conv"] * len(a), "primitives is <U4"),
    ("primitives", lambda a: None, "primitives is object"),
    ("edges", lambda a: a[:, ::-1], "does not lead to a later level"),
    ("edges", lambda a: np.concatenate([a, [[1, 0]]]), "does not lead to a later level"),
    ("edges", lambda a: np.concatenate([a, [[3, 3]]]), "does not lead to a later level"),
    ("edges", lambda a: np.concatenate([a, a[-1:]]), "there twice"),
    ("edges", lambda a: swapped(a, 0, -1), "not sorted by target"),
    ("edges", lambda a: a + 1000, "edges has numbers from 1000"),
    ("edges", lambda a: a - 1, "edges has numbers from -1"),
    ("edges", lambda a: a.astype(np.float32), "edges is float32"),
    ("edges", lambda a: a.T, "edges is int32"),
    ("edges", lambda a: [[1, 2], [3]], "edges is"),
    ("level_offsets", lambda a: a[:-1], "level_offsets is"),
    ("level_offsets", lambda a: a[1:], "level_offsets is"),
    ("level_offsets", lambda a: swapped(a, 2, 3), "level_offsets is"),
    ("level_offsets", lambda a: np.insert(a, 3, a[3]), "level_offsets is"),
    ("level_offsets", lambda a: np.array([0, a[-1]]), "does not lead to a later level"),
    ("level_offsets", lambda a: [], "level_offsets is"),
    ("shapes", lambda a: a[:-1], "shapes is"),
    ("shapes", lambda a: [*a[:-1], (1, 2, 3)], "the shape of node"),
    ("shapes", lambda a: [*a[:-1], (1, 2, 3, -1)], "the shape of node"),
    ("shapes", lambda a: [*a[:-1], (1, 2, 3, 4.0)], "the shape of node"),
    ("shapes", lambda a: [*a[:-1], "1234"], "the shape of node"),
    ("shapes", lambda a: [*a[:-1], (10**9, 10**9, 1, 1)], "at most"),
    ("weights", lambda a: a[1:], "weights is"),
    ("weights", lambda a: "w" * len(a), "weights is"),
    ("weights", lambda a: [*a[:-1], 5], "weights has something else"),
    ("weights", lambda a: [*a[:-1], "unknown"], "weights has 'unknown'"),
    ("norm_biases", lambda a: None, "norm_biases is"),
    ("norm_biases", lambda a: ["unknown", *a[1:]], "norm_biases has 'unknown'"),
    ("classifier_weight", lambda a: 10**6, "classifier_weight is 1000000"),
    ("classifier_weight", lambda a: -1, "classifier_weight is -1"),
    ("classifier_weight", lambda a: 0, "classifier_weight is 0"),
    ("classifier_bias", lambda a: "last", "classifier_bias is 'last'"),
    ("classifier_bias", lambda a: True, "classifier_bias is True"),
    ("parameter_shapes", lambda a: [*a.items()], "parameter_shapes is a list"),
    ("parameter_shapes", lambda a: {**a, 5: (1,)}, "parameter_shapes has the key 5"),
    ("parameter_shapes", lambda a: dict.fromkeys(a, (-1, 2)), "the shape of"),
    ("parameter_shapes", lambda a: dict.fromkeys(a, 7), "the shape of"),
    ("parameter_shapes", lambda a: dict.fromkeys(a, (1 << 21, 1 << 21)), "at most"),
    ("parameter_shapes", lambda a: dict.fromkeys(a, ()), "classifier_weight is"),
    ("skipped", lambda a: {"a": 1}, "skipped has"),
    ("skipped", lambda a: ["a"], "skipped is a list"),
    ("ran_on_numbers", lambda a: True, "ran_on_numbers is True"),
    ("input_shape", lambda a: "3", "input_shape is '3'"),
    ("input_shape", lambda a: (3, None, 5), "input_shape is"),
]


@pytest.mark.parametrize(("name", "change", "message"), WRONG)
def test_what_does_not_hold_is_refused(graph: ArchGraph, name: str, change: Callable[[Any], Any], message: str) -> None:
    changed = fields_of(graph)
    changed[name] = change(changed[name])
    with pytest.raises(GraphError, match=message):
        ArchGraph(**changed)
    with pytest.raises(GraphError, match=message):
        copy.copy(graph).__setstate__(changed)


def test_states_that_are_none_are_refused(graph: ArchGraph) -> None:
    for state in (None, [], "graph", {}, {"primitives": graph.primitives}):
        with pytest.raises(GraphError):
            ArchGraph.__new__(ArchGraph).__setstate__(state)
    state = graph.__getstate__()
    del state["input_shape"]  # as graphs of earlier versions had none
    old = ArchGraph.__new__(ArchGraph)
    old.__setstate__(state)
    assert old.input_shape is None


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_whatever_is_changed_works_or_is_refused(graph: ArchGraph, data: st.DataObject) -> None:
    changed = fields_of(graph)
    numbers = st.integers(-(2**63), 2**63 - 1) | st.integers(-3, len(graph) + 3)
    anything = st.none() | numbers | st.text(max_size=3) | st.floats() | st.lists(numbers, max_size=4)
    for name in data.draw(st.lists(st.sampled_from(sorted(changed)), min_size=1, max_size=3)):
        value = changed[name]
        if isinstance(value, np.ndarray) and value.size and data.draw(st.booleans()):
            wide = value.astype(np.int64)
            wide.flat[data.draw(st.integers(0, wide.size - 1))] = data.draw(numbers)
            changed[name] = wide
        elif isinstance(value, list) and value and data.draw(st.booleans()):
            value[data.draw(st.integers(0, len(value) - 1))] = data.draw(anything)
        elif isinstance(value, dict) and value and data.draw(st.booleans()):
            value[data.draw(st.sampled_from(sorted(map(str, value))))] = data.draw(anything)
        else:
            changed[name] = data.draw(anything)
    try:
        made = ArchGraph(**changed)
        made.distances()
        made.levels, made.ops, made.params, made.num_classes, made.shape_table  # noqa: B018
        GHN(max_shape=(8, 8, 3, 3), num_classes=10, hid=8).eval().embed(made)
    except GhnfastError:
        return


@pytest.mark.parametrize("cutoff", [0, 256, -1, 2.5, "50", None, True, 10**30])
def test_cutoffs_out_of_range(graph: ArchGraph, cutoff: Any) -> None:
    with pytest.raises(GraphError, match="1 to 255 hops are accepted"):
        graph.distances(cutoff)
    with pytest.raises(ValueError, match="cutoff"):
        graph.distances(cutoff)


def test_nothing_is_predicted_without_the_shapes_of_parameters(graph: ArchGraph) -> None:
    bare = ArchGraph(**{**fields_of(graph), "parameter_shapes": {}})
    assert bare.num_classes is None
    with pytest.raises(PredictError, match="does not have the shapes of its parameters"):
        GHN(max_shape=(8, 8, 3, 3), hid=8)(bare)
