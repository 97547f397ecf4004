"""How long the stages of a prediction take, beside the least it could take: `ghnfast bench`, and bench/."""

from __future__ import annotations

import ctypes
import gc
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .errors import DomainWarning
from .graph import GraphBatch
from .nn import GHN
from .prediction import prepare
from .progress import Progress
from .tracing import trace
from .tracing.members import members_of

Stage = Callable[[], Any]


def alternate(
    functions: Mapping[str, Stage], rounds: int, progress: Progress = lambda count: None
) -> dict[str, list[float]]:
    """Seconds of every call, the functions taking turns: what disturbs the machine then disturbs all of them.

    Each is called once before, for what only a first call does. `progress` is called with 1 after each round.
    """
    for function in functions.values():
        function()
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - start)
        progress(1)
    return seconds


def medians(functions: Mapping[str, Stage], rounds: int, progress: Progress = lambda count: None) -> dict[str, float]:
    """The median seconds of each function, the functions taking turns; see `alternate`."""
    return {name: statistics.median(values) for name, values in alternate(functions, rounds, progress).items()}


def fill(model: nn.Module) -> Stage:
    """Writes every parameter once with torch's `fill_`: what a prediction cannot do without."""
    targets = [parameter.detach() for parameter in model.parameters()]

    def run() -> None:
        for target in targets:
            target.fill_(0.01)

    return run


def without_notice(function: Stage) -> Stage:
    """The same, whatever images the GHN was trained for: speed does not depend on it."""

    def run() -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DomainWarning)
            return function()

    return run


def stages(model: nn.Module, ghn: GHN, input_shape: Sequence[int] | None = None) -> dict[str, Stage]:
    """The stages of predicting a model on the CPU, one function each, and their totals.

    trace: from module to graph. graph: all shortest paths. sweep: node states, from embedding to normalization.
    decode: from node states to parameters. total, given: everything, from a module and from its graph. fill: see
    `fill`. The stages do not add up to the total, which prepares and checks besides.
    """
    graph = trace(model, input_shape=input_shape)
    batch = GraphBatch([graph])
    job = prepare([model], [members_of(model)], batch, True, ghn.request)
    with torch.no_grad():
        native = ghn.native()
        states = ghn.node_states(batch, native)
        _, last = ghn.source(batch, job.layout)

    def decode() -> None:
        if native is None:
            job.write(ghn.decode_source(states, job.layout, native), ghn.name, ghn.precision)
        else:
            job.write(ghn.inputs(states, job.layout, native), ghn.name, ghn.precision, last)

    def no_grad(function: Stage) -> Stage:
        return torch.no_grad()(function)

    return {
        "trace": lambda: trace(model, input_shape=input_shape),
        "graph": lambda: GraphBatch([graph]).topology(),
        "sweep": no_grad(lambda: ghn.node_states(batch, native)),
        "decode": no_grad(decode),
        "total": without_notice(lambda: ghn.predict(model, input_shape=input_shape)),
        "given": without_notice(lambda: ghn.predict(model, graph=graph)),
        "fill": fill(model),
    }


def extra_memory(function: Stage) -> int | None:
    """How many bytes of memory the process takes at most while a function runs, beyond what it has before.

    None where the system does not tell: only Linux does.
    """
    status, clear = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not sys.platform.startswith("linux") or not os.path.exists(clear):
        return None
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it
    if trim is not None:
        trim(0)  # what is free but kept would hide what is taken
    clear.write_text("5")  # forget the highest level so far
    before = resident(status, "VmRSS")
    function()
    return max(0, resident(status, "VmHWM") - before)


def resident(status: Path, field: str) -> int:
    line = next(line for line in status.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024
