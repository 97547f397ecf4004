"""The processes of a run, which torchrun starts: each has networks of its own, and they add their gradients up."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed

from ..errors import TrainingError
from ..files import in_words
from ..memory import is_out_of_memory
from .config import TrainConfig


def number_in(name: str, default: str) -> int:
    """Of the environment."""
    text = os.environ.get(name, default)
    if not re.fullmatch("[0-9]{1,9}", text):
        raise TrainingError(f"{name} is {text!r:.40}; a number, as torchrun sets it, is accepted")
    return int(text)


def is_first() -> bool:
    """Whether this process is the only one, or the one that writes."""
    return number_in("WORLD_SIZE", "1") == 1 or number_in("RANK", "0") == 0


def add_up(values: Tensor) -> None:
    """Over all processes, in place."""
    with saying_who_ended():
        distributed.all_reduce(values)


def share(values: Tensor) -> None:
    """The first process's, in place."""
    with saying_who_ended():
        distributed.broadcast(values, 0)


@contextmanager
def saying_who_ended() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        raise TrainingError(
            f"another process of this run has ended, or cannot be reached: {in_words(error):.200}; what it said tells "
            "why, and the run goes on from its last checkpoint when it is started again"
        ) from error


class processes:
    """The process group, where torchrun started several: rank, how many, and the device of this one."""

    def __init__(self, config: TrainConfig) -> None:
        self.config, self.size = config, number_in("WORLD_SIZE", "1")
        if self.size < 1:
            raise TrainingError("WORLD_SIZE is 0; a number of processes, as torchrun sets it, is accepted")
        # Processes beyond the last would wait for ever, for one that nobody starts.
        if self.size > 1 and "RANK" in os.environ and (rank := number_in("RANK", "0")) >= self.size:
            raise TrainingError(f"RANK is {rank} and WORLD_SIZE is {self.size}; 0 to {self.size - 1} are accepted")
        local = os.environ.get("LOCAL_RANK", "0")
        self.name = f"cuda:{local}" if config.device == "cuda" else config.device

    def __enter__(self) -> tuple[int, int, torch.device]:
        try:
            device = torch.empty(1, device=self.name).device
        except (RuntimeError, AssertionError) as error:
            raise TrainingError(f"the device {self.name} cannot be used: {in_words(error)}") from error
        if device.type == "meta":
            raise TrainingError("the device meta cannot be used: it has no memory; cpu, cuda and the like are accepted")
        if self.size == 1:
            return 0, 1, device
        if device.type == "cuda":
            torch.cuda.set_device(device)
        # NCCL refuses processes that share a GPU, as they do where the configuration names one.
        try:
            distributed.init_process_group("nccl" if self.config.device == "cuda" else "gloo")
        except (RuntimeError, ValueError) as error:
            raise TrainingError(
                f"WORLD_SIZE is {self.size}, and the processes do not find each other: {in_words(error)}; torchrun "
                "sets what they need; without WORLD_SIZE one process trains alone"
            ) from error
        return distributed.get_rank(), self.size, device

    def __exit__(self, *_: Any) -> None:
        if self.size > 1:
            distributed.destroy_process_group()
