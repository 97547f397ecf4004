"""Whether the attributes of an architecture graph hold together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import GraphError
from .parameters import ParameterSlice, Reparametrization
from .primitives import PRIMITIVES

# Of one parameter: the elements of all parameters of a graph are counted in 64 bits.
MOST_ELEMENTS = 1 << 40


def checked_fields(given: Mapping[str, Any], required: Sequence[str]) -> dict[str, Any]:
    """The attributes of a graph, arrays in their own types and sequences as lists and tuples.

    Args:
        given: the attributes, by name.
        required: those that have no default.

    Raises:
        GraphError: see `ArchGraph`.
    """
    missing = [name for name in required if name not in given]
    if missing:
        raise GraphError(f"a graph without {', '.join(missing)} was given; all attributes of ArchGraph are accepted")
    primitives = whole_numbers("primitives", given["primitives"], 1, 0, len(PRIMITIVES) - 1).astype(np.int8)
    nodes = len(primitives)
    edges = whole_numbers("edges", given["edges"], 2, 0, nodes - 1).astype(np.int32)
    offsets = whole_numbers("level_offsets", given["level_offsets"], 1, 0, nodes).astype(np.int32)
    check_order(nodes, edges, offsets)
    shapes = {
        require_name("parameter_shapes", name): sizes_of(f"the shape of {name}", shape)
        for name, shape in items_of("parameter_shapes", given.get("parameter_shapes", {}))
    }
    names = {what: checked_names(what, given[what], nodes, shapes) for what in ("weights", "norm_biases")}
    image = given.get("input_shape")
    return {
        "primitives": primitives,
        "edges": edges,
        "level_offsets": offsets,
        "shapes": [
            None if shape is None else sizes_of(f"the shape of node {node}", shape, dimensions=4)
            for node, shape in enumerate(per_node("shapes", given["shapes"], nodes, of_names=False))
        ],
        **names,
        **checked_classifier(given, names["weights"], shapes),
        "parameter_shapes": shapes,
        **checked_reasons(given),
        "input_shape": None if image is None else sizes_of("input_shape", image),
        "slices": checked_slices(given.get("slices", {}), shapes),
        "reparametrized": checked_weights(given.get("reparametrized", {}), shapes),
    }


Shapes = Mapping[str, tuple[int, ...]]


def checked_names(what: str, given: Any, nodes: int, shapes: Shapes) -> list[str | None]:
    names = per_node(what, given, nodes)
    unknown = next((name for name in names if name is not None and name not in shapes), None)
    if shapes and unknown is not None:
        raise GraphError(f"{what} has {unknown!r}; None and the names in parameter_shapes are accepted")
    return names


def checked_classifier(given: Mapping[str, Any], weights: Sequence[str | None], shapes: Shapes) -> dict[str, Any]:
    last = {what: given.get(what) for what in ("classifier_weight", "classifier_bias")}
    for what, node in last.items():
        if node is None:
            continue
        name = weights[node] if is_size(node) and node < len(weights) else None
        if name is None:
            raise GraphError(f"{what} is {node!r}; None and the number of a node with a weight are accepted")
        if what == "classifier_weight" and shapes and not shapes[name]:
            raise GraphError(f"{what} is {node}, whose parameter has no dimensions; one or more are accepted")
    return last


def checked_reasons(given: Mapping[str, Any]) -> dict[str, Any]:
    skipped, ran_on_numbers = dict(items_of("skipped", given.get("skipped", {}))), given.get("ran_on_numbers")
    if not all(isinstance(text, str) for pair in skipped.items() for text in pair):
        raise GraphError("skipped has something else than strings; {name: reason} is accepted")
    if ran_on_numbers is not None and not isinstance(ran_on_numbers, str):
        raise GraphError(f"ran_on_numbers is {ran_on_numbers!r:.80}; a reason in words, or None, is accepted")
    return {"skipped": skipped, "ran_on_numbers": ran_on_numbers}


def checked_slices(given: Any, shapes: Shapes) -> dict[str, ParameterSlice]:
    found = dict(items_of("slices", given))
    for name, part in found.items():
        fits = isinstance(part, ParameterSlice) and shapes.get(name) == part.shape
        if not fits or not part.is_within():
            raise GraphError(f"slices has {name!r}: {part!r:.80}; parts of parameters of their shape are accepted")
    return found


def checked_weights(given: Any, shapes: Shapes) -> dict[str, Reparametrization]:
    found = dict(items_of("reparametrized", given))
    for name, weight in found.items():
        if not isinstance(weight, Reparametrization) or name not in shapes or name not in weight.originals:
            raise GraphError(f"reparametrized has {name!r}: {weight!r:.80}; Reparametrization is accepted")
    return found


def whole_numbers(name: str, given: Any, dimensions: int, least: int, most: int) -> NDArray[np.integer[Any]]:
    """An array of whole numbers within a range; its second dimension, if any, is two."""
    try:
        array = np.asarray(given)
    except (ValueError, TypeError, OverflowError) as error:
        raise GraphError(f"{name} is no array: {error}") from error
    if array.size == 0:
        array = array.reshape((0, 2)[:dimensions]).astype(np.int64)
    shape = "(n,)" if dimensions == 1 else "(n, 2)"
    if array.dtype.kind not in "iu" or array.ndim != dimensions or (dimensions == 2 and array.shape[1] != 2):
        raise GraphError(f"{name} is {array.dtype}, {array.shape}; whole numbers {shape} are accepted")
    if array.size and not (least <= array.min() and array.max() <= most):
        raise GraphError(f"{name} has numbers from {array.min()} to {array.max()}; {least} to {most} are accepted")
    return array


def check_order(nodes: int, edges: NDArray[np.int32], offsets: NDArray[np.int32]) -> None:
    """Levels are runs of nodes, edges lead to later levels, and are there once, sorted by target."""
    if not len(offsets) or offsets[0] != 0 or offsets[-1] != nodes or (np.diff(offsets) < 1).any():
        raise GraphError(f"level_offsets is {offsets.tolist()!r:.80}; numbers that rise from 0 to {nodes} are accepted")
    level = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    sources, targets = edges.T
    wrong = np.flatnonzero(level[sources] >= level[targets])
    if wrong.size:
        raise GraphError(f"the edge {tuple(edges[wrong[0]].tolist())} does not lead to a later level; every edge must")
    if (np.diff(targets) < 0).any():
        raise GraphError("edges are not sorted by target; such edges are accepted")
    if len(np.unique(targets.astype(np.int64) * nodes + sources)) != len(edges):
        raise GraphError("an edge is there twice; each edge once is accepted")


def is_size(value: Any) -> bool:
    """Whether something is a whole number, zero or more, as Python or numpy have them."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and int(value) >= 0


def sizes_of(what: str, given: Any, dimensions: int | None = None) -> tuple[int, ...]:
    wanted = "sizes" if dimensions is None else f"{dimensions} sizes"
    if not isinstance(given, (tuple, list)) or not all(map(is_size, given)) or dimensions not in (None, len(given)):
        raise GraphError(f"{what} is {given!r:.80}; {wanted} of 0 or more are accepted")
    if math.prod(map(int, given)) > MOST_ELEMENTS:
        raise GraphError(f"{what} is {given!r:.80}; at most {MOST_ELEMENTS} elements are accepted")
    return tuple(map(int, given))


def per_node(what: str, given: Any, nodes: int, of_names: bool = True) -> list[Any]:
    if not isinstance(given, (list, tuple)) or len(given) != nodes:
        size = len(given) if isinstance(given, (list, tuple)) else type(given).__name__
        raise GraphError(f"{what} is {size} for {nodes} nodes; a list of one for each node is accepted")
    if of_names and not all(name is None or isinstance(name, str) for name in given):
        raise GraphError(f"{what} has something else than names; strings and None are accepted")
    return list(given)


def items_of(what: str, given: Any) -> Any:
    if not isinstance(given, Mapping):
        raise GraphError(f"{what} is a {type(given).__name__}; a dict is accepted")
    return given.items()


def require_name(what: str, name: Any) -> str:
    if not isinstance(name, str):
        raise GraphError(f"{what} has the key {name!r:.80}; names are accepted")
    return name
