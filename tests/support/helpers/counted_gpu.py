"""A GPU that is none: what is launched, copied and waited for is counted, on a machine without one.

    with CountedGpu() as gpu:
        ghn, model = gpu.put(ghn), gpu.put(model)
        with gpu.counting() as counts:
            ghn.predict(model, graph=graph)

Tensors say that they are on "cuda:0" and hold their numbers in the memory of the CPU, so that what is computed is what
a GPU would compute: torch's operations on them run on the CPU, kernels interpreted (or, with `interpret=False`, not at
all: then there are counts, but no numbers). The code under test takes the paths that it takes with a GPU.
"""

from __future__ import annotations

import contextlib
import functools
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from ghnfast import _C
from ghnfast.kernels import attention, check, decode, driver, graphormer, layers, products, sweep
from ghnfast.nn.forward import Forward
from ghnfast.nn.graphormer import rows_of_codes
from ghnfast.ops import backend, uploads
from ghnfast.ops.decode import FINE
from helpers.kernel_device import use_large_blocks

DEVICE = torch.device("cuda", 0)
# Operations that launch nothing although they return memory of their own. Views are known by their schemas.
QUIET = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "set_", "resize_"}
FACTORIES = {torch.empty, torch.zeros, torch.ones, torch.full, torch.arange, torch.tensor, torch.eye}
WAITING = {"_local_scalar_dense", "item", "equal", "nonzero", "is_nonzero", "masked_select", "unique_dim", "_unique2"}


class Counts(Counter[str]):
    """What was asked of the GPU: `kernel NAME`, `torch NAME`, `copy ...`, `wait ...`, in the order of first times."""

    def of(self, what: str) -> int:
        return sum(number for name, number in self.items() if name.startswith(f"{what} "))

    @property
    def launches(self) -> int:
        """Everything that the device does one after the other: kernels, torch's operations, copies."""
        return self.of("kernel") + self.of("torch") + self.of("copy")


class GpuTensor(Tensor):
    """A tensor on the GPU that is none."""

    held: Tensor
    gpu: CountedGpu

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, inner: Tensor, gpu: CountedGpu) -> GpuTensor:
        made: GpuTensor = Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            device=DEVICE, requires_grad=False,
        )  # fmt: skip
        made.held, made.gpu = inner, gpu
        return made

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        gpu = next(each.gpu for each in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(each, cls))
        return gpu.run(function, args, kwargs or {})

    def data_ptr(self) -> int:
        return self.held.data_ptr()

    def untyped_storage(self) -> Any:
        return self.held.untyped_storage()

    # What torch's binding to Python asks the device for, before its dispatcher gets to it.

    def item(self) -> Any:
        self.gpu.counts["copy to the host"] += 1
        self.gpu.counts["wait for a number"] += 1
        return self.held.item()

    def __int__(self) -> int:
        return int(self.item())

    def __float__(self) -> float:
        return float(self.item())

    def __bool__(self) -> bool:
        return bool(self.item())

    def __getitem__(self, index: Any) -> GpuTensor:
        inner = tree_map_only(GpuTensor, lambda tensor: tensor.held, index)
        self.gpu.counts["torch index"] += inner is not index
        return GpuTensor(self.held[inner], self.gpu)

    def record_stream(self, stream: Any) -> None:
        self.gpu.used.append((self.untyped_storage().data_ptr(), stream))


class Event:
    """Of a stream: it has not come yet, as far as anybody knows."""

    def query(self) -> bool:
        return False


class Stream:
    def __init__(self, gpu: CountedGpu, number: int) -> None:
        self.gpu, self.number = gpu, number
        self.waited_for: list[Event] = []

    def record_event(self) -> Event:
        return Event()

    def wait_event(self, event: Event) -> None:
        self.waited_for.append(event)


class Recording:
    """Stands for `driver.Recording`: what was launched, on the memory that it was launched on."""

    def __init__(self, gpu: CountedGpu, function: Callable[[], object]) -> None:
        self.gpu, self.launches = gpu, list[Callable[[], None]]()
        gpu.recording = self.launches
        with gpu.counting() as counts:
            function()
        gpu.recording = None
        assert counts.launches == len(self.launches), "something else than kernels would be recorded"
        assert counts.of("wait") == 0

    def launch(self) -> None:
        self.gpu.counts["kernel recorded"] += 1
        for launch in self.launches:
            launch()


class Kernel:
    """Stands for a kernel."""

    def __init__(self, kernel: Any, gpu: CountedGpu) -> None:
        self.kernel, self.gpu = kernel, gpu

    def __getitem__(self, grid: Any) -> Any:
        def run(*arguments: Any, **options: Any) -> None:
            assert len(grid) <= 3
            assert all(size > 0 for size in grid)
            assert all(isinstance(each, GpuTensor) for each in arguments if isinstance(each, Tensor))
            self.gpu.counts[f"kernel {self.kernel.fn.__name__}"] += 1
            if self.gpu.recording is None:
                self.compute(grid, arguments, options)
            else:
                self.gpu.recording.append(functools.partial(self.compute, grid, arguments, options))

        return run

    def compute(self, grid: Any, arguments: Any, options: Any) -> None:
        if self.gpu.interpret:
            self.kernel[grid](*tree_map_only(GpuTensor, lambda tensor: tensor.held, arguments), **options)
        elif self.kernel in (layers.embed_kernel.kernel, graphormer.begin_kernel.kernel):
            arguments[1].held.fill_(FINE)  # the verdict


class Functions(TorchFunctionMode):
    """What makes tensors of the GPU from nothing or from those of the CPU, where torch would ask a real one."""

    def __init__(self, gpu: CountedGpu) -> None:
        self.gpu = gpu

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, gpu = dict(kwargs or {}), self.gpu
        if function in FACTORIES:
            if kwargs.pop("pin_memory", False):
                made = function(*args, **kwargs)
                gpu.pinned.add(made.untyped_storage().data_ptr())
                gpu.kept.append(made)
                return made
            if torch.device(kwargs.get("device") or "cpu").type == "cuda":
                name = function.__name__
                if name not in QUIET:
                    gpu.counts["copy to the device, waiting" if name == "tensor" else f"torch {name}"] += 1
                return gpu.given(GpuTensor(function(*args, **{**kwargs, "device": "cpu"}), gpu))
        if function is Tensor.pin_memory:
            gpu.pinned.add(args[0].untyped_storage().data_ptr())
            gpu.kept.append(args[0])
            return args[0]
        if function in (Tensor.to, Tensor.cuda) and not isinstance(args[0], GpuTensor):
            devices = [each for each in [*args[1:], kwargs.get("device")] if isinstance(each, (str, torch.device))]
            if function is Tensor.cuda or any(torch.device(each).type == "cuda" for each in devices):
                pinned = args[0].untyped_storage().data_ptr() in gpu.pinned and kwargs.get("non_blocking", False)
                gpu.counts["copy to the device" if pinned else "copy to the device, waiting"] += 1
                gpu.counts["wait for a copy to the device"] += not pinned
                return GpuTensor(args[0].clone(), gpu)
        return function(*args, **kwargs)


class CountedGpu(contextlib.ExitStack):
    """See above. used: the memory that was marked as used on a stream, and the stream."""

    def __init__(self, interpret: bool = True) -> None:
        super().__init__()
        self.interpret, self.counts = interpret, Counts()
        self.pinned: set[int] = set()
        self.kept: list[Tensor] = []  # so that no address is that of something else later
        self.used: list[tuple[int, Any]] = []
        self.streams = [Stream(self, number) for number in range(2)]
        self.stream = self.streams[0]
        self.capturing = False
        self.recording: list[Callable[[], None]] | None = None

    def __enter__(self) -> CountedGpu:
        super().__enter__()
        patch = self.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("GHNFAST_BACKEND", "triton")
        patch.setenv("GHNFAST_SWEEP", "triton")
        patch.setattr(backend, "PLAIN_TYPES", {*backend.PLAIN_TYPES, GpuTensor})
        patch.setattr(backend, "capability_of", lambda device: (9, 0))
        patch.setattr(uploads, "CAPTURED", {})
        patch.setattr(torch.cuda, "current_device", lambda: 0)
        patch.setattr(torch.cuda, "is_current_stream_capturing", lambda: self.capturing)
        patch.setattr(torch.cuda, "current_stream", lambda device=None: self.stream)
        patch.setattr(driver, "current_stream", lambda device: self.stream.number)
        patch.setattr(
            Forward, "recorded", lambda forward, room: Recording(self, functools.partial(forward.launch, room))
        )
        self.callback(rows_of_codes.cache_clear)
        rows_of_codes.cache_clear()  # of one GPU, for all GHNs
        if self.interpret:
            use_large_blocks(patch)
            patch.setattr(check, "WEIGHT_PARTS", check.INTERPRETED_WEIGHT_PARTS)
        inspect = _C.inspect_tensors

        def inspect_tensors(tensors: list[Any], *others: Any) -> Any:
            found = inspect([self.inner(tensor) for tensor in tensors], *others)
            found["device"] = [0 if isinstance(tensor, GpuTensor) else -1 for tensor in tensors]
            return found

        patch.setattr(_C, "inspect_tensors", inspect_tensors)
        for module in (attention, check, decode, graphormer, layers, products, sweep):
            for name in [name for name in vars(module) if name.endswith("_kernel")]:
                patch.setattr(module, name, Kernel(getattr(module, name), self))
        self.enter_context(Functions(self))
        return self

    def inner(self, tensor: Any) -> Any:
        return tensor.held if isinstance(tensor, GpuTensor) else tensor

    def run(self, function: Any, args: Any, kwargs: Any) -> Any:
        """An operation of torch on tensors of which one is on the GPU."""
        name = function.overloadpacket.__name__
        returns = function._schema.returns
        view = bool(returns) and all(each.alias_info is not None and not each.alias_info.is_write for each in returns)
        if name in ("_to_copy", "copy_") and self.leaves_device(name, args, kwargs):
            self.counts["copy to the host"] += 1
            self.counts["wait for a copy to the host"] += 1
        elif name in WAITING:
            self.counts["copy to the host"] += 1
            self.counts[f"wait {name}"] += 1
        elif not view and name not in QUIET and name != "detach":
            self.counts[f"torch {name}"] += 1
        to_host = str(kwargs.get("device", "")) == "cpu"
        args, kwargs = tree_map_only(GpuTensor, lambda tensor: tensor.held, (args, kwargs))
        if "device" in kwargs:
            kwargs = {**kwargs, "device": torch.device("cpu")}
        result = function(*args, **kwargs)
        if to_host:
            return result
        wrapped = tree_map_only(Tensor, lambda tensor: GpuTensor(tensor, self), result)
        return self.given(wrapped) if name in QUIET else wrapped

    def given(self, made: Any) -> Any:
        """New memory: what is allocated while launches are recorded would be somebody else's later."""
        assert self.recording is None or made.numel() == 0
        return made

    def leaves_device(self, name: str, args: Any, kwargs: Any) -> bool:
        if name == "_to_copy":
            return str(kwargs.get("device", "cuda")) == "cpu"
        return isinstance(args[0], GpuTensor) != isinstance(args[1], GpuTensor)

    def put(self, module: nn.Module) -> Any:
        """A module with its parameters and buffers moved to the GPU."""
        for each in module.modules():
            for name, parameter in each._parameters.items():
                if parameter is not None:
                    moved = GpuTensor(parameter.detach().clone(), self)
                    each._parameters[name] = nn.Parameter(moved, requires_grad=parameter.requires_grad)
            for name, buffer in each._buffers.items():
                each._buffers[name] = None if buffer is None else GpuTensor(buffer.clone(), self)
        return module

    @contextlib.contextmanager
    def counting(self) -> Iterator[Counts]:
        before, self.counts = self.counts, Counts()
        yield self.counts
        self.counts = before

    @contextlib.contextmanager
    def on_stream(self, number: int) -> Iterator[Stream]:
        before, self.stream = self.stream, self.streams[number]
        yield self.stream
        self.stream = before


def values_of(module: nn.Module) -> dict[str, Tensor]:
    """The values of parameters that are on such a GPU."""
    return {name: cast(GpuTensor, parameter).held for name, parameter in module.named_parameters()}
