"""The reference's numbers (tests/golden) and how they are compared with ours."""

from __future__ import annotations

import functools
import gzip
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ghnfast import GHN, ArchGraph, Report
from ghnfast.checkpoints import Checkpoint
from ghnfast.graph import PRIMITIVES
from ghnfast.nn import from_checkpoint
from helpers.graph_comparison import difference

FOLDER = Path(__file__).parents[2] / "golden"
PART = 1 << 16
GHN_NAMES = ("ghn1-cifar10", "ghn2-cifar10", "mlp-cifar10", "ghn1-imagenet", "ghn2-imagenet")


@functools.cache
def golden(name: str) -> Any:
    """A golden file by name, without its suffixes."""
    packed = FOLDER / f"{name}.json.gz"
    if packed.exists():
        return json.loads(gzip.decompress(packed.read_bytes()))
    return json.loads((FOLDER / f"{name}.json").read_text())


def closed_form_weights(shapes: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    """The weights of the golden checkpoints; they are a function of name and shape."""
    weights = {}
    for name, shape in shapes.items():
        values = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
        values = values / np.sqrt(np.prod(shape[1:])) if len(shape) > 1 else 0.1 * values
        if name.endswith(("ln.weight", "ln1.weight", "ln2.weight")):
            values = 1 + values
        weights[name] = torch.from_numpy(values.astype(np.float32))
    return weights


@functools.cache
def golden_ghn(name: str) -> GHN:
    entry = golden("ghn3_checkpoints" if name.startswith("ghn3") else "checkpoints")[name]
    weights = closed_form_weights(entry["state_dict"])
    return from_checkpoint(Checkpoint(entry["config"], weights, source=f"golden {name}"))


def assert_same_graph(graph: ArchGraph, expected: dict[str, Any]) -> None:
    """Equal as labelled graphs, and with the same virtual edges."""
    labels = list(zip(graph.ops, graph.params, strict=True))
    assert not difference(labels, graph.edges.tolist(), expected["nodes"], expected["edges"])
    distances = graph.distances(expected["ve"]["cutoff"])
    assert np.count_nonzero(distances) == expected["ve"]["pairs"]
    assert distances.sum(dtype=np.int64) == expected["ve"]["distance_sum"]
    assert distances.max() == expected["ve"]["max"]


def assert_same_prediction(model: nn.Module, report: Report, expected: dict[str, Any]) -> None:
    """Values within 1e-5 absolute + 1e-5 relative; sums within 1e-5 of the sum of absolute values."""
    parameters = dict(model.named_parameters())
    assert set(parameters) == set(expected)
    compared: list[tuple[str, NDArray[Any], NDArray[Any]]] = []
    for name, entry in expected.items():
        if entry is None or entry == "unreachable":
            assert name in report.skipped
            continue
        assert name in report.predicted
        values = parameters[name].detach().flatten().numpy()
        assert list(parameters[name].shape) == entry.get("shape", list(parameters[name].shape))
        at, wanted = np.array(entry["at"]), np.array(entry["value"])
        if name == "encoder.pos_embedding":  # the reference fills the class token's row with random numbers
            at, wanted = at[at >= entry["shape"][2]], wanted[at >= entry["shape"][2]]
        elif "sum" in entry:
            total, absolute = sums(values)
            assert abs(total - entry["sum"]) <= 1e-5 * entry["abs"], name
            assert abs(absolute - entry["abs"]) <= 1e-5 * entry["abs"], name
        compared.append((name, values[at].astype(np.float64), wanted))
    ours, theirs = (np.concatenate(each) for each in list(zip(*compared, strict=True))[1:])
    if not np.allclose(ours, theirs, rtol=1e-5, atol=1e-5):  # numpy's check for each of them takes a while
        for name, found, wanted in compared:
            np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5, err_msg=name)


def sums(values: NDArray[Any]) -> tuple[float, float]:
    """Of the values and of their absolute values, in double precision: a part at a time, that caches hold."""
    total = absolute = 0.0
    for start in range(0, len(values), PART):
        part = values[start : start + PART].astype(np.float64)
        total += float(part.sum())
        absolute += float(np.abs(part, out=part).sum())
    return total, absolute


def assert_same_states(graph: ArchGraph, ours: NDArray[Any], expected: dict[str, Any], wanted: NDArray[Any]) -> None:
    """Node states (nodes, hid) within 1e-5; nodes are matched by their rows, for any order of them is right."""
    assert ours.shape == wanted.shape

    def labelled(labels: list[Any], rows: NDArray[Any]) -> tuple[dict[Any, NDArray[Any]], NDArray[Any]]:
        named = {label: row for label, row in zip(labels, rows, strict=True) if label[1]}
        others = [[PRIMITIVES.index(label[0]), *row] for label, row in zip(labels, rows, strict=True) if not label[1]]
        return named, np.array(sorted(others, key=lambda row: np.round(row, 3).tolist()))

    named, others = labelled(list(zip(graph.ops, graph.params, strict=True)), ours)
    wanted_named, wanted_others = labelled([tuple(label) for label in expected["nodes"]], wanted)
    for label, row in wanted_named.items():
        np.testing.assert_allclose(named[label], row, rtol=1e-5, atol=1e-5, err_msg=str(label))
    np.testing.assert_allclose(others, wanted_others, rtol=1e-5, atol=1e-5)
