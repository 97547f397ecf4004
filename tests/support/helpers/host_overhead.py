"""What a prediction on a GPU takes of the host, from its graph to the last launch, measured without a GPU.

    GHNFAST_BACKEND=triton PYTHONPATH=tests/support python -m helpers.host_overhead [model ...]

prints a JSON list: the model, launches of kernels, and microseconds of the thread's CPU time, the least and the median
until the last launch and until the end, for a prediction of a model whose graph and GHN were used before: of the same
model (nothing is uploaded), and of two in turns (their memory is). Kernels are compiled for sm_90 and launched by a
driver that only counts. Tensors are the CPU's: what torch takes to allocate a GPU's memory and to queue a copy is in it
as far as it takes that on the CPU.
"""

from __future__ import annotations

import functools
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase
from triton.runtime import driver

import ghnfast
from ghnfast.kernels import driver as kernel_driver
from ghnfast.nn import recordings
from ghnfast.nn.forward import Forward, Room
from ghnfast.ops import backend
from ghnfast.ops.decode import FINE
from helpers.models import torchvision_model

REPEATS = 400
LAUNCHES: list[tuple[str, int]] = []  # the kernel, and the time


class Launcher:
    """Counts. The kernel that makes the status has it say that all is fine."""

    def __init__(self, source: Any, metadata: Any) -> None:
        self.name = metadata.name

    def __call__(self, *arguments: Any) -> None:
        LAUNCHES.append((self.name, time.thread_time_ns()))
        if self.name in ("embed_kernel", "begin_kernel"):
            arguments[10].fill_(FINE)  # behind what a launch of Triton's has before its arguments, the second of these


class Recording:
    """Counts as one launch; nothing is computed."""

    def __init__(self, forward: Forward, room: Room) -> None:
        forward.launch(room)
        LAUNCHES.clear()

    def launch(self) -> None:
        LAUNCHES.append(("recorded", time.thread_time_ns()))


class Utils:
    def load_binary(self, *_: Any) -> tuple[int, ...]:
        return 1, 1, 100, 0, 1024

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": 232448, "multiprocessor_count": 132, "warpSize": 32}

    def unload_module(self, *_: Any) -> None:
        pass


class Driver(DriverBase):  # type: ignore[misc]
    """A driver of one sm_90 that runs nothing."""

    def __init__(self) -> None:
        self.utils, self.launcher_cls = Utils(), Launcher

    @staticmethod
    def is_active() -> bool:
        return True

    def map_python_to_cpp_type(self, ty: str) -> str:
        return ty

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")

    def get_benchmarker(self) -> None:
        return None

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def microseconds(run: Callable[[int], Any]) -> dict[str, float]:
    launched, ended = [], []
    for index in range(REPEATS):
        LAUNCHES.clear()
        start = time.thread_time_ns()
        run(index)
        ended.append((time.thread_time_ns() - start) / 1e3)
        launched.append((LAUNCHES[-1][1] - start) / 1e3)
    found: dict[str, float] = {}
    for name, times in (("launched", launched), ("ended", ended)):
        found |= {f"{name}, least": round(min(times), 1), f"{name}, median": round(statistics.median(times), 1)}
    return found


def predict(ghn: ghnfast.GHN, models: list[nn.Module], graph: ghnfast.ArchGraph, turn: int) -> None:
    ghn.predict(models[turn % len(models)], graph=graph)


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    driver.set_active(Driver())
    backend.triton_refusal = lambda tensor: ""
    recordings.can_be_recorded = lambda forward: True
    Forward.recorded = lambda forward, room: Recording(forward, room)  # type: ignore[assignment, method-assign, return-value]
    kernel_driver.number_of = lambda device: 0
    kernel_driver.current_stream = lambda device: 0
    ghn, found = ghnfast.GHN().eval(), []
    for name in names:
        models = [torchvision_model(name) for _ in range(2)]
        graph = ghnfast.trace(models[0])
        for _ in range(3):
            for model in models:
                ghn.predict(model, graph=graph)
        LAUNCHES.clear()
        ghn.predict(models[0], graph=graph)
        kernels = len(LAUNCHES)
        same = microseconds(functools.partial(predict, ghn, models[:1], graph))
        turns = microseconds(functools.partial(predict, ghn, models, graph))
        found.append({"model": name, "kernels": kernels, "same": same, "in turns": turns})
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:] or ["resnet50"])
