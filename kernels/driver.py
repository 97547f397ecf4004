"""NVIDIA's driver: kernels from binaries, and their launch."""

from __future__ import annotations

import contextlib
import ctypes
import functools

import torch

from ..errors import BackendError

# Attributes of functions and devices, as cuda.h numbers them.
DYNAMIC_SHARED, SHARED_OF_DEVICE = 8, 97


@functools.cache
def library() -> ctypes.CDLL:
    """The driver, which is there where torch has a GPU."""
    return ctypes.CDLL("libcuda.so.1")


def check(status: int) -> None:
    if status:
        text = ctypes.c_char_p()
        library().cuGetErrorString(status, ctypes.byref(text))
        raise BackendError(f"NVIDIA's driver: {(text.value or b'error %d' % status).decode()}")


def number_of(device: torch.device) -> int:
    return torch.cuda.current_device() if device.index is None else device.index


def on_device(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Kernels are launched on the current device: make it this one."""
    if device.type != "cuda" or number_of(device) == torch.cuda.current_device():
        return contextlib.nullcontext()
    return torch.cuda.device(device)


@functools.cache
def shared_memory(device: torch.device) -> int:
    """Bytes of shared memory that a block may ask for."""
    size = ctypes.c_int()
    check(library().cuDeviceGetAttribute(ctypes.byref(size), SHARED_OF_DEVICE, number_of(device)))
    return size.value


def current_stream(device: int) -> int:
    """The handle of torch's current stream on a device."""
    handle: int = torch._C._cuda_getCurrentRawStream(device)
    return handle


class Function:
    """A kernel of a binary, on the current device. Its module stays loaded: captured CUDA graphs may launch it."""

    def __init__(self, binary: bytes, name: str, shared: int) -> None:
        """shared: the bytes of shared memory that launches may ask for."""
        module, self.handle = ctypes.c_void_p(), ctypes.c_void_p()
        check(library().cuModuleLoadData(ctypes.byref(module), binary))
        check(library().cuModuleGetFunction(ctypes.byref(self.handle), module, name.encode()))
        check(library().cuFuncSetAttribute(self.handle, DYNAMIC_SHARED, shared))
        self.run = library().cuLaunchKernel

    def launch(self, blocks: int, threads: int, shared: int, arguments: ctypes.Structure, device: int) -> None:
        """On the current stream of the current device, whose number is given. arguments: the kernel's one parameter."""
        stream = ctypes.c_void_p(current_stream(device))
        parameters = (ctypes.c_void_p * 1)(ctypes.addressof(arguments))
        check(self.run(self.handle, blocks, 1, 1, threads, 1, 1, shared, stream, parameters, None))
