"""The networks of a training step: which, their graphs, and running them with predicted parameters."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, ParamSpec, Protocol, TypeVar

import torch
from torch import Tensor, nn

from ..errors import TrainingError
from ..files import in_words
from ..graph import ArchGraph
from ..prediction.slots import slots_of
from ..randomness import drawing_from
from ..tracing.members import members_of
from .data import ImageData, shuffled
from .drawing import calls_drawing_from

WHOLE_DTYPES = (torch.float32, torch.float64)
T = TypeVar("T")
P = ParamSpec("P")
R = TypeVar("R")
GOLDEN = (5**0.5 - 1) / 2
# Of images, in pixels a side, that networks of DeepNets-1M are made for: their encodings of positions have a size.
SMALL, LARGE = 32, 224
# Of the initial position encodings of vision transformers, in torchvision and elsewhere.
TOKEN_STD = 0.02


def for_large_images(data: ImageData) -> bool:
    """Whether networks of DeepNets-1M for these images are those for large ones.

    Raises:
        TrainingError: the images have a size that there are no networks for.
    """
    size = data.input_shape[1]
    if size not in (SMALL, LARGE):
        raise TrainingError(
            f"the images of {data.name} have {size} x {size} pixels; {SMALL} or {LARGE} a side are accepted with "
            "networks of DeepNets-1M (deepnets), others with families"
        )
    return size == LARGE


class Net(Protocol):
    """A network that nobody has built yet, such as `DeepNet` and `FamilyNet`."""

    @property
    def index(self) -> int: ...

    @property
    def input_shape(self) -> tuple[int, int, int]: ...

    @property
    def graph(self) -> ArchGraph: ...

    def build(self, num_classes: int | None = None, *, light: bool = False) -> nn.Module: ...


class Nets(Protocol):
    """A data set of networks, such as `DeepNets1M` and `Families`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Net: ...

    def num_nodes(self, index: int) -> int: ...


@dataclass(frozen=True, eq=False)
class Mixture:
    """Networks of several data sets in these shares, which add up to 1; as many as the largest has.

    Which set network `index` is from follows the golden ratio's multiples, which fill every stretch evenly.
    """

    sets: Sequence[Nets]
    shares: Sequence[float]

    def __len__(self) -> int:
        return max(map(len, self.sets))

    def __getitem__(self, index: int) -> Net:
        chosen = self.set_of(index)
        return chosen[index % len(chosen)]

    def num_nodes(self, index: int) -> int:
        chosen = self.set_of(index)
        return chosen.num_nodes(index % len(chosen))

    def set_of(self, index: int) -> Nets:
        left = (index + 1) * GOLDEN % 1
        for nets, share in zip(self.sets, self.shares, strict=True):
            if left < share:
                return nets
            left -= share
        return self.sets[-1]


@dataclass(frozen=True, eq=False)
class MetaBatch:
    """The networks of one step that this process trains on.

    Attributes:
        networks: without memory for their parameters.
        graphs: their graphs.
        places: where each stands in the meta-batch of all processes.
        total: how many networks that has.
    """

    networks: list[nn.Module]
    graphs: list[ArchGraph]
    places: list[int]
    total: int


@dataclass(frozen=True, eq=False)
class MetaBatches:
    """Meta-batch number `step`: the next networks of the data set's order, as many as `max_nodes` allows."""

    dataset: Nets
    size: int
    max_nodes: int
    seed: int
    rank: int = 0
    world_size: int = 1

    @property
    def per_epoch(self) -> int:
        return max(len(self.dataset) // self.size, 1)

    def chosen(self, step: int) -> list[int]:
        """The indices of the networks of a step, of all processes."""
        epoch, number = divmod(step, self.per_epoch)
        order = shuffled(len(self.dataset), self.seed, epoch)
        chosen: list[int] = []
        nodes = 0
        for index in order[number * self.size : (number + 1) * self.size].tolist():
            nodes += self.dataset.num_nodes(index)
            if chosen and nodes > self.max_nodes:
                break
            chosen.append(index)
        return chosen

    def __getitem__(self, step: int) -> MetaBatch:
        chosen = self.chosen(step)
        places = list(range(self.rank, len(chosen), self.world_size))
        items = [self.dataset[chosen[place]] for place in places]
        return MetaBatch(
            [item.build(light=True) for item in items], [item.graph for item in items], places, len(chosen)
        )


def ahead(source: Any, start: int, stop: int, depth: int = 2) -> Iterator[Any]:
    """source[start], ..., source[stop - 1]; the next ones are made in a thread while one is in use."""
    with ThreadPoolExecutor(1) as pool:
        threads = torch.get_num_threads()
        pool.submit(use_one_thread).result()
        torch.set_num_threads(threads)
        waiting = [pool.submit(source.__getitem__, step) for step in range(start, min(start + depth, stop))]
        try:
            for step in range(start, stop):
                result = waiting.pop(0).result()
                if step + depth < stop:
                    waiting.append(pool.submit(source.__getitem__, step + depth))
                yield result
        finally:
            for future in waiting:
                future.cancel()


def use_one_thread() -> None:
    """A second team of OpenMP threads would wait busily beside the first, and take the cores from it: half the speed.

    A thread takes the number over at its first parallel operation.
    """
    torch.set_num_threads(1)
    torch.zeros(1 << 20).add_(1)


def run_network(network: nn.Module, graph: ArchGraph, parameters: Mapping[str, Tensor], images: Tensor) -> Tensor:
    """The logits of a network with the parameters that a GHN called with its graph gives, for training the GHN.

    What is not predicted is as the network has it. Where that is without memory (`build(light=True)`), rows of position
    encodings for class tokens are drawn as they are initialized, and what has no path to the output is zero.

    Args:
        network: stays as it is.
        graph: its graph.
        parameters: {name: tensor}, of `ghn([graph])`; gradients flow through them.
        images: (images, channels, height, width), on the device of the parameters.

    Returns:
        (images, classes); of networks with several outputs, the first.
    """
    return call(network, with_tokens(network, graph, parameters), images)


def run_drawing_from(seed: int, network: nn.Module, graph: ArchGraph) -> AbstractContextManager[Any]:
    """`drawing_from` for `run_network` alone."""
    return drawing_from(seed) if slots_of(graph).tokens else calls_drawing_from(seed, network)


def with_tokens(network: nn.Module, graph: ArchGraph, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Parameters as a network has them that they are predicted for: `GHN.forward` leaves rows for tokens zero.

    These rows of position encodings are the network's own, or, where it has no memory, drawn as they are initialized:
    a layer norm makes as much of them as of predicted rows, so a GHN has to be trained with what it will meet.
    """
    found = dict(parameters)
    for name, count in slots_of(graph).tokens.items():
        own, predicted = network.get_parameter(name).detach(), parameters[name]
        zero = predicted.detach().narrow(-2, 0, count)
        rows = torch.empty_like(zero).normal_(std=TOKEN_STD) if own.is_meta else own.narrow(-2, 0, count).to(zero)
        found[name] = torch.cat([rows, predicted.narrow(-2, count, predicted.shape[-2] - count)], -2)
    return found


def call(network: nn.Module, parameters: Mapping[str, Tensor], images: Tensor) -> Tensor:
    """The logits of a network with these parameters, which stay as they are.

    What is not among them is not predicted: it is as the network has it, or, without memory, has no path to the output,
    and zeros stand for it.
    """
    modules, names, own, *_ = members_of(network)
    values = {
        id(parameter): parameters[name] if name in parameters else value_of(parameter, images.device)
        for name, parameter in zip(names, own, strict=True)
    }
    for name in parameters.keys() - set(names):  # another name of one that has several
        values[id(network.get_parameter(name))] = parameters[name]
    with lent(modules, values):
        return main_logits(network(images))


def value_of(parameter: nn.Parameter, device: torch.device) -> Tensor:
    """What is not predicted."""
    if parameter.is_meta:
        return zeros(tuple(parameter.shape), device, parameter.dtype)
    return parameter.detach().to(device)


@contextmanager
def lent(modules: Sequence[nn.Module], values: Mapping[int, Tensor]) -> Iterator[None]:
    """Within it, modules have values for their parameters, by the parameters' ids.

    As `torch.func.functional_call`, which finds each of them by its name, which takes as long as many a network.
    """
    before = [(module._parameters, module._parameters.copy()) for module in modules if module._parameters]
    try:
        for own, parameters in before:
            for name, parameter in parameters.items():
                if parameter is not None:
                    own[name] = values[id(parameter)]  # type: ignore[assignment]
        yield
    finally:
        for own, parameters in before:
            own.update(parameters)


def for_training(network: nn.Module) -> nn.Module:
    """`network.train()`, which sets an attribute of every module, where one has another."""
    return network if all(module.training for module in members_of(network).modules) else network.train()


@functools.lru_cache(maxsize=1024)
def zeros(shape: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    return torch.zeros((), device=device, dtype=dtype).expand(shape)


def placed(images: Tensor, device: torch.device | str) -> Tensor:
    """Images on a device, with channels last: most convolutions of small networks are faster that way on the CPU."""
    return images.to(device, memory_format=torch.channels_last)


def learning(function: Callable[P, R]) -> Callable[P, R]:
    """A function that has gradients, also where its caller has turned them off.

    Raises:
        TrainingError: what it made would be in half precision, and images are not.
    """

    @functools.wraps(function)
    def with_gradients(*args: P.args, **kwargs: P.kwargs) -> R:
        if (dtype := torch.get_default_dtype()) not in WHOLE_DTYPES:
            raise TrainingError(
                f"torch's default dtype is {dtype}, in which nothing is trained here; torch.float32 and torch.float64 "
                "are accepted (torch.set_default_dtype)"
            )
        with torch.inference_mode(False), torch.enable_grad():
            return function(*args, **kwargs)

    return with_gradients


def device_of(device: torch.device | str) -> torch.device:
    """The device with this name.

    Raises:
        TrainingError: it is none, cannot be used here, or has no memory.
    """
    if not isinstance(device, (str, torch.device)):
        raise TrainingError(f"the device is {device!r:.80}; cpu, cuda and the like are accepted")
    try:
        found = torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:  # the second: torch was built without it
        raise TrainingError(
            f"the device is {str(device)!r:.80}; cpu, cuda and the like are accepted, where they can be used "
            f"({in_words(error)})"
        ) from error
    if found.type == "meta":
        raise TrainingError("the device is 'meta', which has no memory; cpu, cuda and the like are accepted")
    return found


def main_logits(output: Any) -> Tensor:
    """The logits in what a network returns: auxiliary heads come second."""
    logits: Tensor = output[0] if isinstance(output, (tuple, list)) else getattr(output, "logits", output)
    return logits
