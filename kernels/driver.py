"""NVIDIA's driver: kernels from binaries, and their launch."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import weakref
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch

from ..errors import BackendError

# Attributes of functions and devices, as cuda.h numbers them.
DYNAMIC_SHARED, SHARED_OF_DEVICE = 8, 97
# What a kernel takes, by value.
Parameter: TypeAlias = "ctypes._SimpleCData[Any] | ctypes.Structure"


@functools.cache
def library() -> ctypes.CDLL:
    """The driver, which is there where torch has a GPU."""
    return ctypes.CDLL("libcuda.so.1")


def entry(name: str) -> Any:
    """A function of the driver.

    Raises:
        BackendError: this driver does not have it.
    """
    try:
        return getattr(library(), name)
    except AttributeError as error:
        raise BackendError(f"NVIDIA's driver has no {name}") from error


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
def primary_context(device: int) -> ctypes.c_void_p:
    """The context of a device that torch uses."""
    context = ctypes.c_void_p()
    check(library().cuDevicePrimaryCtxRetain(ctypes.byref(context), device))
    return context


def enter(device: int) -> None:
    """Give the calling thread, where it has none yet, the context of its current device, whose number is given.

    A thread has none before its first call to CUDA's runtime that needs one: the driver does not make up for that.
    """
    context = ctypes.c_void_p()
    check(library().cuCtxGetCurrent(ctypes.byref(context)))
    if not context:
        check(library().cuCtxSetCurrent(primary_context(device)))


class Node(NamedTuple):
    """The launch of a kernel: its handle, its blocks, the threads and the bytes of shared memory of each, and its
    parameters."""

    function: int
    grid: tuple[int, int, int]
    threads: int
    shared: int
    parameters: Sequence[Parameter]


class NodeParameters(ctypes.Structure):
    """CUDA_KERNEL_NODE_PARAMS of cuda.h."""

    _fields_ = [
        ("function", ctypes.c_void_p),
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared", ctypes.c_uint),
        ("parameters", ctypes.c_void_p),
        ("extra", ctypes.c_void_p),
    ]


class Recording:
    """Launches on a GPU, which is the current one, one after the other, to be launched at once: a CUDA graph.

    What kernels are given stays where it is as long as this is used. Nothing is captured: while a stream is, no thread
    of the process may wait for the device.
    """

    def __init__(self, device: torch.device, nodes: Iterable[Node]) -> None:
        graph, self.handle = ctypes.c_void_p(), ctypes.c_void_p()
        self.device, self.run = number_of(device), entry("cuGraphLaunch")
        enter(self.device)
        # Before there is anything to forget: an interrupt may come at any time.
        weakref.finalize(self, forget, entry("cuGraphExecDestroy"), self.handle, os.getpid()).atexit = False
        check(entry("cuGraphCreate")(ctypes.byref(graph), 0))
        try:
            before = ctypes.c_void_p()
            for number, node in enumerate(nodes):
                before = add(graph, before, min(number, 1), node)
            instantiate = entry("cuGraphInstantiateWithFlags")
            check(instantiate(ctypes.byref(self.handle), graph, ctypes.c_ulonglong(0)))
        finally:
            entry("cuGraphDestroy")(graph)

    def launch(self) -> None:
        """On the current stream of the device, which is the current one."""
        enter(self.device)
        check(self.run(self.handle, ctypes.c_void_p(current_stream(self.device))))


def forget(destroy: Any, handle: ctypes.c_void_p, process: int) -> None:
    """A graph that can be launched; what is still running comes to its end. After a fork, it is the parent's."""
    if handle and process == os.getpid():
        destroy(handle)


def add(graph: ctypes.c_void_p, before: ctypes.c_void_p, count: int, node: Node) -> ctypes.c_void_p:
    """To a graph, behind so many others, none or one. The driver copies the parameters."""
    made, pointers = ctypes.c_void_p(), pointers_to(node.parameters)
    parameters = NodeParameters(
        node.function, node.grid, (node.threads, 1, 1), node.shared, ctypes.addressof(pointers), None
    )
    given = ctypes.byref(before), ctypes.c_size_t(count), ctypes.byref(parameters)
    check(entry("cuGraphAddKernelNode")(ctypes.byref(made), graph, *given))
    return made


def pointers_to(parameters: Sequence[Parameter]) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * len(parameters))(*map(ctypes.addressof, parameters))


class Function:
    """A kernel of a binary, on the current device. Its module stays loaded: captured CUDA graphs may launch it."""

    def __init__(self, binary: bytes, name: str, shared: int, device: int) -> None:
        """shared: the bytes of shared memory that launches may ask for. device: the number of the current one."""
        module, self.handle = ctypes.c_void_p(), ctypes.c_void_p()
        enter(device)
        check(library().cuModuleLoadData(ctypes.byref(module), binary))
        check(library().cuModuleGetFunction(ctypes.byref(self.handle), module, name.encode()))
        check(library().cuFuncSetAttribute(self.handle, DYNAMIC_SHARED, shared))
        self.run = library().cuLaunchKernel

    def node(self, blocks: int, threads: int, shared: int, arguments: ctypes.Structure) -> Node:
        """What `launch` would launch."""
        assert self.handle.value is not None
        return Node(self.handle.value, (blocks, 1, 1), threads, shared, [arguments])

    def launch(self, blocks: int, threads: int, shared: int, arguments: ctypes.Structure, device: int) -> None:
        """On the current stream of the current device, whose number is given. arguments: the kernel's one parameter."""
        enter(device)
        stream, parameters = ctypes.c_void_p(current_stream(device)), pointers_to([arguments])
        check(self.run(self.handle, blocks, 1, 1, threads, 1, 1, shared, stream, parameters, None))
