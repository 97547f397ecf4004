"""`ghnfast bench`: time the stages of predicting a model."""

from __future__ import annotations

import argparse
import json
from typing import Any

import torch

from ..predict import load
from ..profiling import extra_memory, medians, stages
from ..progress import progress
from .arguments import add_ghn, add_model, parse_count
from .models import adapt, find_model

STAGES = {
    "trace": "from module to graph",
    "graph": "all shortest paths up to 50 hops",
    "sweep": "node states: embedding, and message passing forward and in reverse",
    "decode": "from node states to parameters",
    "total": "everything, from module to parameters",
    "given": "everything but tracing, the graph given",
    "fill": "torch's fill_ on every parameter",
}


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "bench",
        help="time the stages of predicting a model",
        description="Time the stages of predicting a model on the CPU, all of them taking turns, beside writing every "
        "parameter once with torch's fill_. OMP_NUM_THREADS sets the number of threads.",
    )
    add_model(parser)
    add_ghn(parser)
    parser.add_argument("--rounds", type=parse_count, default=15, metavar="N", help="how often each; default: 15")
    parser.add_argument("--json", action="store_true", help="print the seconds as one JSON object")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> str:
    build = find_model(arguments.model, arguments.num_classes)
    ghn = load(arguments.ghn)
    model = adapt(build(), arguments.small_images)
    functions = stages(model, ghn, arguments.input_shape)
    memory = extra_memory(functions["total"])
    with progress("timing", arguments.rounds, "rounds") as told:
        seconds = medians(functions, arguments.rounds, told)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    if arguments.json:
        result = {"model": arguments.model, "parameters": parameters, "threads": torch.get_num_threads()}
        return json.dumps(result | {"seconds": seconds, "extra_bytes": memory})
    lines = [
        f"{arguments.model}: {parameters:,} parameters, {torch.get_num_threads()} threads, medians of "
        f"{arguments.rounds} rounds"
    ]
    lines += [f"{name:>7} {value * 1e3:9.2f} ms  {STAGES[name]}" for name, value in seconds.items()]
    lines.append(
        f"total / fill: {seconds['total'] / seconds['fill']:.2f}; given / fill: "
        f"{seconds['given'] / seconds['fill']:.2f}"
    )
    if memory is not None:
        lines.append(f"memory beyond the model and the GHN: {memory / 2**20:.1f} MiB")
    return "\n".join(lines)
