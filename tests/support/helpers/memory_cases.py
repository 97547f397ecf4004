"""Models whose memory is not what it seems, each predicted: run as a program, for the process may not survive it.

Prints one line of JSON a case: its name, what came of it, whether every parameter that can be read is as before, and
whether what was predicted is what a model in memory of its own gets.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import ghnfast
from ghnfast import GHN

IMAGE = (3, 8, 8)
FOLDER = Path(tempfile.mkdtemp())
PAGE = mmap.PAGESIZE


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 16, 3, bias=False)
        self.b = nn.Conv2d(16, 16, 3, bias=False)
        self.c = nn.Conv2d(16, 16, 3, bias=False)
        self.fc = nn.Linear(16, 10)
        self.register_buffer("scale", torch.ones(16, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(((self.b(self.a(x))) * (self.scale * 2)).relu().mean((2, 3)))
        return out


class Chain(Network):
    """The same with all three convolutions."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(self.c(self.b(self.a(x))).mean((2, 3)))
        return out


class Own(nn.Parameter):
    pass


SHAPE = (16, 16, 3, 3)
COUNT, BYTES = 16 * 16 * 9, 16 * 16 * 9 * 4


def with_b(tensor: Tensor) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        model = Chain()
        model.b.weight = tensor if isinstance(tensor, nn.Parameter) else nn.Parameter(tensor, requires_grad=False)
        return model

    return make


def resized(tensor: Tensor, size: int) -> Callable[[], nn.Module]:
    """Its storage loses memory once the model has it."""
    make = with_b(tensor)

    def freed() -> nn.Module:
        model = make()
        model.b.weight.untyped_storage().resize_(size)
        return model

    return freed


def new_file(name: str) -> str:
    path = FOLDER / name
    path.write_bytes(np.zeros(COUNT + PAGE, dtype=np.float32).tobytes())
    return str(path)


def mapped(mode: Any, offset: int = 0) -> Tensor:
    array = np.memmap(new_file(f"{mode}{offset}"), dtype=np.float32, mode=mode, offset=offset, shape=SHAPE)
    return torch.from_numpy(array)


def protected_page() -> Tensor:
    """Pages of the process, one of which in the middle is read-only."""
    memory = mmap.mmap(-1, BYTES + 2 * PAGE)
    tensor = torch.frombuffer(memory, dtype=torch.float32, count=COUNT).view(SHAPE)
    KEPT.append(memory)
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mprotect(ctypes.c_void_p(tensor.data_ptr() + PAGE), PAGE, mmap.PROT_READ) == 0
    return tensor


def truncated() -> Tensor:
    path = new_file("truncated")
    tensor = torch.from_numpy(np.memmap(path, dtype=np.float32, mode="r+", shape=SHAPE))
    os.truncate(path, 0)
    return tensor


def shared_parts(*parts: Callable[[Tensor], Tensor]) -> Callable[[], nn.Module]:
    """The weights of b and c are parts of one tensor."""

    def make() -> nn.Module:
        model, memory = Chain(), torch.zeros(2 * COUNT + 16)
        model.b.weight, model.c.weight = (nn.Parameter(part(memory)) for part in parts)
        return model

    return make


def first(memory: Tensor) -> Tensor:
    return memory[:COUNT].view(SHAPE)


def distributed() -> nn.Module:
    import torch.distributed as dist
    from torch.distributed.fsdp import fully_shard

    if not dist.is_initialized():
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
    model = Chain()
    fully_shard(model, mesh=dist.init_device_mesh("cpu", (1,)))  # type: ignore[attr-defined]
    return model


def fake() -> nn.Module:
    from torch._subclasses.fake_tensor import FakeTensorMode

    model = Chain()
    with FakeTensorMode() as mode:
        model.b.weight = nn.Parameter(mode.from_tensor(torch.zeros(SHAPE)))
    return model


def freed_buffer() -> nn.Module:
    model = Network()
    model.scale.untyped_storage().resize_(0)
    return model


def on_meta() -> nn.Module:
    with torch.device("meta"):
        return Chain()


def quantized() -> nn.Module:
    return with_b(torch.quantize_per_tensor(torch.zeros(SHAPE), 0.1, 0, torch.qint8))()


KEPT: list[Any] = []
MODELS: dict[str, Callable[[], nn.Module]] = {
    "freed": lambda: resized(torch.zeros(SHAPE), 0)(),
    "freed, other strides": lambda: resized(torch.zeros(SHAPE).to(memory_format=torch.channels_last), 0)(),
    "short": lambda: resized(torch.zeros(SHAPE), BYTES - 4)(),
    "short by the offset": lambda: resized(torch.zeros(COUNT + 8)[8:].view(SHAPE), BYTES)(),
    "short, of half precision": lambda: resized(torch.zeros(SHAPE, dtype=torch.float16), BYTES // 2 - 2)(),
    "mapped for reading": lambda: with_b(mapped("r"))(),
    "mapped for reading, within a page": lambda: with_b(mapped("r", 68))(),
    "mapped for reading, other strides": lambda: with_b(mapped("r", 4).transpose(2, 3))(),
    "one page for reading": lambda: with_b(protected_page())(),
    "mapped from a file that shrank": lambda: with_b(truncated())(),
    "meta": on_meta,
    "distributed": distributed,
    "expanded": lambda: with_b(torch.zeros(1, 1, 3, 3).expand(SHAPE))(),
    "folded": lambda: with_b(torch.zeros(60).as_strided(SHAPE, (1, 2, 3, 4)))(),
    "a part of another": shared_parts(first, lambda memory: memory[16 : COUNT + 16].view(SHAPE)),
    "one row of another": shared_parts(first, lambda memory: memory[COUNT - 9 : 2 * COUNT - 9].view(SHAPE)),
    "another dtype of another": shared_parts(first, lambda memory: memory.view(torch.float16)[:COUNT].view(SHAPE)),
    "freed buffer": freed_buffer,
    "mapped for writing": lambda: with_b(mapped("r+"))(),
    "mapped privately": lambda: with_b(mapped("c"))(),
    "of torch's own map": lambda: with_b(torch.from_file(new_file("torch"), size=COUNT).view(SHAPE))(),
    "of numpy": lambda: with_b(torch.from_numpy(np.zeros(SHAPE, dtype=np.float32)))(),
    "shared with other processes": lambda: with_b(torch.zeros(SHAPE).share_memory_())(),
    "a class of its own": lambda: with_b(Own(torch.zeros(SHAPE)))(),
    "negated": lambda: with_b(torch._neg_view(torch.zeros(SHAPE).transpose(2, 3)))(),
    "side by side": shared_parts(first, lambda memory: memory[COUNT : 2 * COUNT].view(SHAPE)),
    "interleaved": shared_parts(
        lambda memory: memory[: 2 * COUNT].view(16, 2, 16, 3, 3)[:, 0],
        lambda memory: memory[: 2 * COUNT].view(16, 2, 16, 3, 3)[:, 1],
    ),
    "tied by data": shared_parts(first, first),
    "tied by data, transposed": shared_parts(first, lambda memory: first(memory).transpose(0, 1)),
    "fake": fake,
    "functional": lambda: with_b(torch._to_functional_tensor(torch.zeros(SHAPE)))(),
    "sparse": lambda: with_b(torch.zeros(SHAPE).to_sparse())(),
    "of oneDNN": lambda: with_b(torch.zeros(SHAPE).to_mkldnn())(),
    "quantized": quantized,
}


def new_ghn() -> GHN:
    torch.manual_seed(0)
    return GHN(max_shape=(8, 8, 3, 3), num_classes=10, hid=8)


def broken_ghn(size: int) -> GHN:
    ghn = new_ghn()
    ghn.decoder.conv[2].weight.untyped_storage().resize_(size)
    return ghn


def of_broken_ghn(use: Callable[[GHN, nn.Module], Any], size: int = 0) -> Callable[[nn.Module], Any]:
    return lambda model: use(broken_ghn(size), model)


GHNS: dict[str, Callable[[nn.Module], Any]] = {
    "predict": of_broken_ghn(lambda ghn, model: ghn.predict(model, input_shape=IMAGE)),
    "predict, short": of_broken_ghn(lambda ghn, model: ghn.predict(model, input_shape=IMAGE), 1024),
    "embed": of_broken_ghn(lambda ghn, model: ghn.embed(model, input_shape=IMAGE)),
    "forward": of_broken_ghn(lambda ghn, model: ghn(ghnfast.trace(model, input_shape=IMAGE))),
    "meta": lambda model: new_ghn().to("meta").predict(model, input_shape=IMAGE),
}


class Chooses(Chain):
    """Where the forward goes on is in a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.alphas = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if self.alphas.argmax() == 0 else self.fc(self.a(x).mean((2, 3)))


class Embeds(Network):
    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(self.fc.weight[x])
        return out


class Reads(Chain):
    """A forward that asks for values of features runs on numbers."""

    def forward(self, x: Tensor) -> Tensor:
        assert x.sum().item() == 5
        return super().forward(x)


def freed(tensor: Tensor) -> Tensor:
    tensor.untyped_storage().resize_(0)
    return tensor


def chooses() -> nn.Module:
    model = Chooses()
    freed(model.alphas)
    return model


FREED = {
    "choice": lambda ghn: ghn.predict(chooses(), input_shape=IMAGE),
    "tokens": lambda ghn: ghn.predict(Embeds(), example_inputs=(freed(torch.ones(2, 4, dtype=torch.long)),)),
    "image": lambda ghn: ghn.predict(Reads(), example_inputs=(freed(torch.ones(1, *IMAGE)),)),
}


def readable(model: nn.Module) -> dict[str, Tensor]:
    """What the test may look at: all but the weight that is broken."""
    return {
        name: tensor.detach().clone()
        for name, tensor in model.named_parameters()
        if name not in ("b.weight", "c.weight") and not tensor.is_meta and type(tensor) is nn.Parameter
    }


def compared(model: nn.Module, report: ghnfast.Report) -> list[tuple[Tensor, Tensor]]:
    """What was predicted, beside the same of a model in memory of its own; of what is tied, the first."""
    wanted = dict(new_ghn().predict(Chain(), input_shape=IMAGE).named_parameters())
    found: dict[int, tuple[Tensor, Tensor]] = {}
    for name, parameter in model.named_parameters():
        if name in report.predicted:
            found.setdefault(parameter.data_ptr(), (parameter, wanted[name]))
    return list(found.values())


def attempt(model: nn.Module, run: Callable[[nn.Module], Any]) -> dict[str, Any]:
    before = readable(model)
    try:
        _, report = run(model)
        result: dict[str, Any] = {"skipped": report.skipped, "predicted": report.predicted}
        result["right"] = all(torch.equal(parameter, wanted) for parameter, wanted in compared(model, report))
    except ghnfast.GhnfastError as error:
        result = {"error": type(error).__name__, "message": str(error)}
    after = readable(model)
    result["unchanged"] = all(torch.equal(before[name], after[name]) for name in before)
    return result


def main() -> None:
    warnings.simplefilter("ignore")
    ghn, chosen = new_ghn(), sys.argv[1:]
    for name, make in MODELS.items():
        if not chosen or name in chosen:
            result = attempt(make(), lambda model: ghn.predict(model, input_shape=IMAGE, report=True))
            print(json.dumps({"case": name, **result}), flush=True)
    for name, run in GHNS.items():
        print(json.dumps({"case": f"ghn: {name}", **attempt(Chain(), run)}), flush=True)
    for name, use in FREED.items():
        result = attempt(Chain(), lambda model, use=use: use(ghn))  # type: ignore[misc]
        print(json.dumps({"case": f"freed {name}", **result}), flush=True)


if __name__ == "__main__":
    main()
