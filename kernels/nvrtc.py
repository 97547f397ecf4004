"""CUDA C++ compiled at run time, by NVRTC: no compiler is needed to build or install ghnfast.

Builds of torch for CUDA bring the library along; without a GPU, `pip install nvidia-cuda-nvrtc` does.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import torch

from ..errors import BackendError

# Versions of NVRTC that know the GPUs that the kernels are tested for. First that of torch: what a newer one makes, the
# driver may be too old for.
OF_TORCH = (torch.version.cuda or "").partition(".")[0]
MAJOR_VERSIONS = sorted(("13", "12"), key=lambda version: version != OF_TORCH)
FLAGS = ("--std=c++17", "--extra-device-vectorization")


@functools.cache
def library() -> ctypes.CDLL | None:
    """NVRTC, or None where it is not installed."""
    for name in candidates():
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None


def candidates() -> Iterator[str]:
    """Where NVRTC may be: in NVIDIA's packages of this Python, then where the system's loader looks."""
    names = [f"libnvrtc.so.{version}" for version in MAJOR_VERSIONS]
    package = importlib.util.find_spec("nvidia")
    for folder in [] if package is None else package.submodule_search_locations or []:
        for name in names:
            yield from map(str, sorted(Path(folder).glob(f"*/lib/{name}")))
    yield from names


class Compiled(NamedTuple):
    """binary: for one kind of GPU (cubin). assembly: what it was made of (PTX)."""

    binary: bytes
    assembly: str


def compiled(
    source: str, name: str, architecture: int, macros: tuple[tuple[str, int], ...], included: Mapping[str, str]
) -> Compiled:
    """A source for one kind of GPU.

    Args:
        name: of the source, for messages.
        architecture: ten times the compute capability, such as 90.
        macros: what is defined ahead of the source.
        included: other sources that it may include, by their names.

    Raises:
        BackendError: NVRTC is not installed, is too old for the GPU, or refuses the source.
    """
    nvrtc = library()
    if nvrtc is None:
        raise BackendError("NVRTC is not installed; pip install nvidia-cuda-nvrtc")
    options = [f"--gpu-architecture=sm_{architecture}", *FLAGS, *(f"-D{macro}={value}" for macro, value in macros)]
    program = ctypes.c_void_p()
    names, texts = strings(included), strings(included.values())
    files = len(included), texts, names
    check(nvrtc, nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), name.encode(), *files))
    try:
        arguments = strings(options)
        status = nvrtc.nvrtcCompileProgram(program, len(options), arguments)
        if status:
            log = result_of(nvrtc, program, "ProgramLog").rstrip(b"\0\n").decode(errors="replace")
            raise BackendError(f"NVRTC does not compile {name} for sm_{architecture}: {log}")
        assembly = result_of(nvrtc, program, "PTX").rstrip(b"\0").decode()
        return Compiled(result_of(nvrtc, program, "CUBIN"), assembly)
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def strings(texts: Collection[str]) -> ctypes.Array[ctypes.c_char_p]:
    return (ctypes.c_char_p * len(texts))(*(text.encode() for text in texts))


def result_of(nvrtc: ctypes.CDLL, program: ctypes.c_void_p, what: str) -> bytes:
    size = ctypes.c_size_t()
    check(nvrtc, getattr(nvrtc, f"nvrtcGet{what}Size")(program, ctypes.byref(size)))
    result = ctypes.create_string_buffer(size.value)
    check(nvrtc, getattr(nvrtc, f"nvrtcGet{what}")(program, result))
    return result.raw


def check(nvrtc: ctypes.CDLL, status: int) -> None:
    if status:
        nvrtc.nvrtcGetErrorString.restype = ctypes.c_char_p
        raise BackendError(f"NVRTC failed: {nvrtc.nvrtcGetErrorString(status).decode()}")
