"""What to say where a forward fails: where it was, what is wrong, and what might help."""

from __future__ import annotations

import re
from types import FrameType, TracebackType
from typing import Any

import torch
from torch import nn

from ..errors import TraceError
from .calls import ShapeError

# How messages of torch, and of models, speak of shapes.
ABOUT_SHAPES = re.compile(r"shape|size|dimension|channel|\bdims?\b|divisible|too small|image", re.IGNORECASE)
ABOUT_ARGUMENTS = re.compile(r"(forward|__call__|_call_impl)\(\).*argument|missing \d+ required|positional argument")
TORCHSCRIPT_REASON = re.compile(r"^[\w.]*(?:Error|Exception): *(.*)$", re.MULTILINE)


def reason(error: BaseException) -> str:
    """The kind of an error and what its message says in one line."""
    text = str(error)
    if "TorchScript" in text.partition("\n")[0]:
        found = TORCHSCRIPT_REASON.findall(text)
        if found:
            return f"TorchScript: {found[0].removeprefix('RuntimeError: ').removeprefix('TraceError: ').rstrip('.')}"
    if isinstance(error, TraceError):
        return text
    lines = [line.strip().rstrip(".") for line in text.splitlines() if line.strip()]
    kind = "RuntimeError" if isinstance(error, ShapeError) else type(error).__name__
    return f"{kind}: {lines[0]}" if lines else kind


def failure(model: nn.Module, described: str, error: BaseException, shape_given: bool, inputs_given: bool) -> str:
    """What is wrong with a forward.

    Args:
        described: the inputs, in words.
        shape_given, inputs_given: whether the caller said what the inputs are.
    """
    place = place_of(model, error)
    advice = about_scripts(model) or hint(error, shape_given, inputs_given)
    return f"the forward of {type(model).__name__} failed on {described}{place}: {reason(error)}{advice}"


def hint(error: BaseException, shape_given: bool, inputs_given: bool) -> str:
    """What the caller might do, if the inputs may be the reason; else nothing."""
    text = str(error)
    if "does not require grad" in text:
        return ". A trace records no gradients: a forward that computes some (torch.autograd.grad) cannot be traced"
    if inputs_given or isinstance(error, TraceError):
        return ""
    if isinstance(error, TypeError) and ABOUT_ARGUMENTS.search(text):
        return ". Pass example_inputs=(...) with what its forward takes"
    if not isinstance(error, ShapeError) and not ABOUT_SHAPES.search(text):
        return ""
    if shape_given:
        return ". Pass the input_shape that it takes, or example_inputs=(...) if that is not one batch of images"
    return ". Pass input_shape=(channels, height, width) or example_inputs=(...) if the model takes something else"


def about_scripts(model: nn.Module) -> str:
    modules = model.named_modules()
    scripted = [name or "itself" for name, module in modules if isinstance(module, torch.jit.ScriptModule)]
    return f" (TorchScript: {scripted[0]})" if scripted else ""


def place_of(model: nn.Module, error: BaseException) -> str:
    """The innermost module in which an error was raised, and the line outside of torch that led there."""
    frames = list(frames_of(error.__traceback__))
    modules = [owner for frame in frames if isinstance(owner := frame.f_locals.get("self"), nn.Module)]
    root = next((module for module in modules if type(module) is type(model)), None)
    if root is None:
        return ""
    names = {id(module): name for name, module in root.named_modules()}
    inner = next((module for module in reversed(modules) if names.get(id(module))), None)
    where = f", in {names[id(inner)]} ({type(inner).__name__})" if inner is not None else ""
    line = next((frame for frame in reversed(frames) if not is_inside(frame)), None)
    return where if line is None else f"{where}, at {line.f_code.co_filename}:{numbers_of(error)[line]}"


def frames_of(traceback: TracebackType | None) -> Any:
    while traceback is not None:
        yield traceback.tb_frame
        traceback = traceback.tb_next


def numbers_of(error: BaseException) -> dict[FrameType, int]:
    """The line in which each frame of an error was."""
    found = {}
    traceback = error.__traceback__
    while traceback is not None:
        found[traceback.tb_frame] = traceback.tb_lineno
        traceback = traceback.tb_next
    return found


def is_inside(frame: FrameType) -> bool:
    """Whether a frame is torch's or ours."""
    name = frame.f_globals.get("__name__", "")
    return name.partition(".")[0] in ("torch", "ghnfast")
