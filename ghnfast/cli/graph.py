"""`ghnfast graph`: describe the architecture graph of a model, and draw it."""

from __future__ import annotations

import argparse
import json
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from .. import _C
from ..graph import MAX_DISTANCE, PRIMITIVES, ArchGraph
from ..tracing import trace
from .arguments import add_model
from .models import adapt, find_model
from .shared import Json, check_output, format_groups, group_by_reason, write_text

log = logging.getLogger("ghnfast")

DRAWING_SUFFIXES = (".svg",)


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "graph",
        help="show the architecture graph of a model",
        description="Trace a model and describe its architecture graph. The model needs no weights and no memory.",
    )
    add_model(parser)
    parser.add_argument("--json", action="store_true", help="print nodes, edges and counts as one JSON object")
    parser.add_argument("--stats", action="store_true", help="also say degree, average path, depth and width")
    parser.add_argument("--svg", metavar="FILE", help="draw the graph; blocks that repeat are drawn once")
    parser.add_argument("--whole", action="store_true", help="draw every node, also of blocks that repeat")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> str:
    svg = check_output(arguments.svg, DRAWING_SUFFIXES)
    build = find_model(arguments.model, arguments.num_classes)
    model, graph = trace_without_weights(build, arguments.input_shape, arguments.small_images)
    if svg is not None:
        write_text(svg, graph.to_svg(arguments.model, fold=not arguments.whole))
    description = describe(arguments.model, model, graph, svg)
    if arguments.stats:
        description["stats"] = statistics_of(graph)
    if arguments.json:
        return json.dumps({**description, **list_graph(graph)})
    return format_graph(description)


def trace_without_weights(
    build: Callable[[], nn.Module], input_shape: Sequence[int] | None, small_images: bool
) -> tuple[nn.Module, ArchGraph]:
    """A model and its graph; on the meta device, in no memory and in no time, where that works."""
    try:
        with torch.device("meta"):
            model = adapt(build(), small_images)
        return model, trace(model, input_shape=input_shape)
    except Exception as error:  # anything: models compute with their weights while they are built, RegNets for one
        log.debug("tracing without weights failed, now with them: %s: %s", type(error).__name__, error)
    model = adapt(build(), small_images)
    return model, trace(model, input_shape=input_shape)


def describe(name: str, model: nn.Module, graph: ArchGraph, svg: Path | None) -> Json:
    """The counts of a graph."""
    counts = Counter(graph.ops)
    with_node = {param for params in (graph.weights, graph.norm_biases) for param in params if param is not None}
    # Distances fit a byte, so counting them is cheap also for the 10^8 pairs of the largest graphs.
    distances = torch.from_numpy(graph.distances(MAX_DISTANCE)).flatten()
    pairs = torch.bincount(distances, minlength=MAX_DISTANCE + 1)[1:].tolist()
    total = sum(pairs)
    return {
        "model": name,
        "counts": {"nodes": len(graph), "edges": len(graph.edges), "levels": graph.depth},
        "primitives": {op: counts[op] for op in PRIMITIVES if op in counts},
        "parameter_tensors": {"with_node": len(with_node), "without_node": len(graph.skipped)},
        "without_node": group_by_reason(graph.skipped, model),
        "virtual_edges": {
            "cutoff": MAX_DISTANCE,
            "pairs": total,
            "mean_distance": sum(d * n for d, n in enumerate(pairs, 1)) / total if total else None,
            "longest": max((d for d, n in enumerate(pairs, 1) if n), default=None),
        },
        "svg": None if svg is None else str(svg),
    }


def statistics_of(graph: ArchGraph) -> Json:
    """What the published statistics of DeepNets-1M say of a graph (appendix A of the paper), and its shape."""
    out_degrees = np.bincount(graph.edges[:, 0], minlength=len(graph))
    in_degrees = np.bincount(graph.edges[:, 1], minlength=len(graph))
    return {
        "average_degree": 2 * len(graph.edges) / len(graph),
        "largest_in_degree": int(in_degrees.max()),
        "largest_out_degree": int(out_degrees.max()),
        "average_path": _C.mean_path(len(graph), graph.edges),
        "depth": graph.depth,
        "width": int(np.diff(graph.level_offsets).max()),
    }


def list_graph(graph: ArchGraph) -> Json:
    labels = zip(graph.ops, graph.params, graph.levels.tolist(), strict=True)
    return {
        "nodes": [{"op": op, "param": param, "level": level} for op, param, level in labels],
        "edges": graph.edges.tolist(),
    }


def format_graph(description: Json) -> str:
    counts, tensors, virtual = (description[key] for key in ("counts", "parameter_tensors", "virtual_edges"))
    lines = [
        f"model              {description['model']}",
        f"graph              {counts['nodes']:,} nodes, {counts['edges']:,} edges, {counts['levels']:,} levels",
        f"parameter tensors  {tensors['with_node']:,} with a node, {tensors['without_node']:,} without",
    ]
    found = f"{virtual['pairs']:,} pairs within {virtual['cutoff']} hops"
    if virtual["pairs"]:
        found += f", mean distance {virtual['mean_distance']:.2f}, longest {virtual['longest']}"
    lines.append(f"virtual edges      {found}")
    if "stats" in description:
        stats = description["stats"]
        lines.append(
            f"degree             {stats['average_degree']:.2f} on average; at most {stats['largest_in_degree']} edges "
            f"into a node, {stats['largest_out_degree']} out of it"
        )
        lines.append(f"average path       {stats['average_path']:.2f} hops, where edges have no direction")
        lines.append(f"depth, width       {stats['depth']:,} levels, at most {stats['width']:,} nodes on one")
    if description["svg"]:
        lines.append(f"drawn to           {description['svg']}")
    lines += ["", f"{'primitive':<10}{'nodes':>8}{'share':>10}"]
    lines += [
        f"{op:<10}{number:>8,}{100 * number / counts['nodes']:>8.1f} %"
        for op, number in sorted(description["primitives"].items(), key=lambda item: -item[1])
    ]
    if description["without_node"]:
        lines += ["", "parameters without a node, because of this:", *format_groups(description["without_node"])]
    return "\n".join(lines)
