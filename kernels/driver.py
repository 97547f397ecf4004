"""NVIDIA's driver: kernels from binaries, and their launch."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import threading
import weakref
from collections.abc import Callable

import torch

from ..errors import BackendError

# Attributes of functions and devices, kinds of streams and of captures, as cuda.h numbers them.
DYNAMIC_SHARED, SHARED_OF_DEVICE = 8, 97
NON_BLOCKING, RELAXED = 1, 2


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


def architecture_of(device: torch.device) -> int:
    """Ten times the compute capability of a GPU, such as 90; 0 of what is none, where kernels are interpreted."""
    if device.type != "cuda":
        return 0
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def on_device(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Kernels are launched on the current device: make it this one."""
    if device.type != "cuda" or number_of(device) == torch.cuda.current_device():
        return contextlib.nullcontext()
    return torch.cuda.device(device)


def bind(device: int) -> None:
    """Make torch's context on a device current, where this thread has none.

    Threads that have called nothing of CUDA's runtime yet have none, and `torch.cuda.device` gives the first device's
    none: that of autograd's, if this is the first that it computes.
    """
    context = ctypes.c_void_p()
    check(library().cuCtxGetCurrent(ctypes.byref(context)))
    if not context:
        check(library().cuDevicePrimaryCtxRetain(ctypes.byref(context), device))
        check(library().cuCtxSetCurrent(context))


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


@functools.cache
def stream_to_record(device: int) -> torch.cuda.ExternalStream:
    """A stream that nobody else has: one of torch's might be in use elsewhere, and that would be recorded, too."""
    handle = ctypes.c_void_p()
    check(library().cuStreamCreate(ctypes.byref(handle), NON_BLOCKING))
    return torch.cuda.ExternalStream(handle.value, device)


RECORDING = threading.Lock()  # there is one stream for it


class Recording:
    """What a function launches on the current stream of a GPU, which is the current one, to be launched again at once:
    a CUDA graph.

    The function allocates no memory, and what it is given stays where it is as long as this is used. Torch's own
    class would have no other thread draw random numbers meanwhile.
    """

    def __init__(self, device: torch.device, function: Callable[[], object]) -> None:
        driver, graph, self.handle = library(), ctypes.c_void_p(), ctypes.c_void_p()
        self.device = number_of(device)
        bind(self.device)
        with RECORDING:
            stream = stream_to_record(self.device)
            handle = ctypes.c_void_p(stream.cuda_stream)
            # Relaxed: other threads, and the collector of garbage in this one, do what they want.
            check(driver.cuStreamBeginCapture_v2(handle, RELAXED))
            try:
                with torch.cuda.stream(stream):
                    function()
            finally:
                status = driver.cuStreamEndCapture(handle, ctypes.byref(graph))
        check(status)
        try:
            check(driver.cuGraphInstantiateWithFlags(ctypes.byref(self.handle), graph, ctypes.c_ulonglong(0)))
        finally:
            driver.cuGraphDestroy(graph)
        weakref.finalize(self, driver.cuGraphExecDestroy, self.handle).atexit = False
        self.run = driver.cuGraphLaunch

    def launch(self) -> None:
        """On the current stream of the device, which is the current one."""
        bind(self.device)
        check(self.run(self.handle, ctypes.c_void_p(current_stream(self.device))))


class Function:
    """A kernel of a binary, on the current device. Its module stays loaded: captured CUDA graphs may launch it."""

    def __init__(self, binary: bytes, name: str, shared: int, device: int) -> None:
        """shared: the bytes of shared memory that launches may ask for. device: the number of the current one."""
        bind(device)
        module, self.handle = ctypes.c_void_p(), ctypes.c_void_p()
        check(library().cuModuleLoadData(ctypes.byref(module), binary))
        check(library().cuModuleGetFunction(ctypes.byref(self.handle), module, name.encode()))
        check(library().cuFuncSetAttribute(self.handle, DYNAMIC_SHARED, shared))
        self.run = library().cuLaunchKernel

    def launch(self, blocks: int, threads: int, shared: int, arguments: ctypes.Structure, device: int) -> None:
        """On the current stream of the current device, whose number is given. arguments: the kernel's one parameter."""
        bind(device)
        stream = ctypes.c_void_p(current_stream(device))
        parameters = (ctypes.c_void_p * 1)(ctypes.addressof(arguments))
        check(self.run(self.handle, blocks, 1, 1, threads, 1, 1, shared, stream, parameters, None))
