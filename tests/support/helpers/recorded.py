"""Compile what forward passes launch, for a GPU that is not there, record it, and compare with the launches themselves.

    GHNFAST_BACKEND=triton PYTHONPATH=tests/support python -m helpers.recorded mlp ghn3

prints a JSON list, of all launches: the kernel, the types of its parameters in PTX, and those of the recorded ones; and
whether what is recorded is what is launched.
"""

from __future__ import annotations

import ctypes
import json
import re
import sys
from typing import Any

import torch
import triton
from torch import nn
from triton.runtime import driver

import ghnfast
from ghnfast.graph import GraphBatch
from ghnfast.kernels import driver as kernel_driver
from ghnfast.kernels import launching
from ghnfast.nn import recordings
from ghnfast.nn.forward import Forward, Room
from ghnfast.ops import backend
from ghnfast.prediction.job import prepare
from ghnfast.tracing.members import members_of
from helpers.counted_predictions import SMALL, ghn_of
from helpers.host_overhead import Driver, Utils

# Of the launcher: grid, stream, function, metadata, three for hooks; then the kernel's arguments.
BEFORE_ARGUMENTS = 9
LAUNCHED: list[tuple[Any, ...]] = []
FOUND: list[dict[str, Any]] = []
PTX = re.compile(r"\.param \.(\w+)(?: \.ptr[^,\n]*)? \w+_param_\d+")


class CountingUtils(Utils):
    """Functions have handles of their own."""

    loaded = 0

    def load_binary(self, *_: Any) -> tuple[int, ...]:
        self.loaded += 1
        loaded = 1, 0x7EDCBA9876543210 + self.loaded, 100, 0, 1024
        return loaded if hasattr(triton, "knobs") else loaded[:4]


class Launcher:
    """Keeps what it is given."""

    def __init__(self, source: Any, metadata: Any) -> None:
        pass

    def __call__(self, *arguments: Any) -> None:
        LAUNCHED.append(arguments)


class Recording:
    def __init__(self, device: torch.device, nodes: list[kernel_driver.Node]) -> None:
        self.nodes = nodes

    def launch(self) -> None:
        pass


def value_of(argument: Any) -> Any:
    if isinstance(argument, torch.Tensor):
        return argument.data_ptr()
    return ctypes.c_float(argument).value if isinstance(argument, float) else argument


def compare(node: kernel_driver.Node, launched: tuple[Any, ...]) -> dict[str, Any]:
    (compiled,) = (compiled for compiled, _ in launching.COMPILED.values() if compiled.function == node.function)
    *parameters, first, second = node.parameters
    signature, constants = compiled.src.signature, compiled.src.constants
    names = [name for name in compiled.src.fn.arg_names if name in signature]
    arguments = dict(zip(names, launched[BEFORE_ARGUMENTS:], strict=True))
    taken = [value_of(arguments[name]) for name in names if signature[name] != "constexpr" and name not in constants]
    threads, _, shared = compiled.packed_metadata[:3]
    same = [(parameter.value or 0) for parameter in parameters] == taken and not (first.value or second.value)
    same = same and (*node.grid, node.function) == (*launched[:3], launched[4])
    same = same and (node.threads, node.shared) == (32 * threads, shared)
    types = [type(parameter).__name__ for parameter in node.parameters]
    return {"kernel": compiled.name, "ptx": PTX.findall(compiled.asm["ptx"]), "recorded": types, "same": same}


def main(kinds: list[str]) -> None:
    made = Driver()
    made.utils, made.launcher_cls = CountingUtils(), Launcher  # type: ignore[assignment]
    driver.set_active(made)
    backend.triton_refusal = lambda tensor: ""
    recordings.can_be_recorded = lambda forward: True
    kernel_driver.Recording = Recording  # type: ignore[assignment, misc]
    kernel_driver.number_of = lambda device: 0
    kernel_driver.current_stream = lambda device: 0
    record = Forward.recorded

    def recorded(forward: Forward, room: Room) -> Any:
        recording: Any = record(forward, room)
        LAUNCHED.clear()
        forward.launch(room)
        FOUND.extend(compare(*each) for each in zip(recording.nodes, LAUNCHED, strict=True))
        return recording

    Forward.recorded = recorded  # type: ignore[method-assign, assignment]
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    batch = GraphBatch([ghnfast.trace(model, input_shape=(3, 16, 16))])
    for kind in kinds:
        ghn = ghn_of(SMALL[kind])
        layout = prepare([model], [members_of(model)], batch, True, ghn.request).layout
        for _ in range(recordings.AFTER + 1):
            ghn.source(batch, layout)
    print(json.dumps(FOUND))


if __name__ == "__main__":
    main(sys.argv[1:])
