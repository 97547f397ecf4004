"""A prediction is written as a whole or not at all: failures at every stage, in every implementation."""

from __future__ import annotations

import dataclasses
import functools
import gc
import itertools
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest
import torch
import torch._dynamo
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import ghnfast
from ghnfast import GHN, ArchGraph, DomainWarning, PredictError
from ghnfast.checkpoints import TrainedOn

IMAGE = (3, 8, 8)
BACKENDS = ["torch", "cpp", "triton"]
PACKAGE = str(Path(ghnfast.__file__).parent)


@pytest.fixture(params=BACKENDS)
def each_backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("GHNFAST_BACKEND", request.param)
    return str(request.param)


@pytest.fixture(scope="module")
def ghn() -> GHN:
    torch.manual_seed(0)
    made = GHN(max_shape=(4, 4, 3, 3), num_classes=3, hid=4)
    made.trained_on = TrainedOn("digits", IMAGE)
    return made


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 5, 3, padding=1)
        self.norm = nn.BatchNorm2d(5)
        self.b = nn.Conv2d(5, 6, 1, bias=False)
        self.fc = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(self.b(self.norm(self.a(x))).mean((2, 3)))
        return out


def network() -> Network:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return Network()


def mixed_network() -> Network:
    """Of several dtypes and memory formats, one of which nobody writes to in place."""
    model = network()
    model.b.to(torch.float64)
    model.norm.to(torch.float16)
    model.a.weight.data = torch.empty(5, 3, 3, 3).transpose(2, 3).copy_(model.a.weight.data)
    model.fc.weight.data = model.fc.weight.data.t().contiguous().t()
    return model


NETWORKS: dict[str, Callable[[], Network]] = {"plain": network, "mixed": mixed_network}


def values(model: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def same(left: list[Tensor], right: list[Tensor]) -> bool:
    return all(map(torch.equal, left, right))


@pytest.fixture(scope="module")
def graph() -> ArchGraph:
    return ghnfast.trace(network(), input_shape=IMAGE)


def classes_graph(classes: int) -> ArchGraph:
    model = network()
    model.fc = nn.Linear(6, classes)
    return ghnfast.trace(model, input_shape=IMAGE)


# At every line --------------------------------------------------------------------------------------------------------


@functools.cache
def lines_of(code: CodeType) -> set[int | None]:
    return {line for *_, line in code.co_lines()}


class Lines:
    """Counts how often each line of the package runs, and interrupts one at a time; kernels are no lines.

    Nothing is collected meanwhile: an interrupt of what runs as an object goes is reported, and nobody can catch it.
    """

    def __init__(self, place: tuple[str, int] | None = None, time: int = 1) -> None:
        self.place, self.time, self.seen = place, time, Counter[tuple[str, int]]()

    def __enter__(self) -> Lines:
        self.outer, self.collecting = sys.gettrace(), gc.isenabled()
        gc.disable()
        sys.settrace(self.enter)
        return self

    def __exit__(self, *error: object) -> None:
        sys.settrace(self.outer)
        if self.collecting:
            gc.enable()

    def enter(self, frame: FrameType, event: str, argument: Any) -> Any:
        name = frame.f_code.co_filename
        if self.place is not None:  # what is nowhere else is looked for nowhere else: that takes a while
            return self.line if name == self.place[0] and self.place[1] in lines_of(frame.f_code) else None
        return self.line if name.startswith(PACKAGE) and "kernels" not in name else None

    def line(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "line":
            place = frame.f_code.co_filename, frame.f_lineno
            self.seen[place] += 1
            if place == self.place and self.seen[place] == self.time:
                raise KeyboardInterrupt
        return self.line


def check_every_line(make: Callable[[], nn.Module], run: Callable[[nn.Module], Any], step: int = 1) -> None:
    before, model = values(make()), make()
    stance = torch._dynamo.eval_frame._stance
    run(model)
    wanted = values(model)
    assert not any(map(torch.equal, before, wanted))
    with Lines() as lines:
        run(make())
    moments = [(place, time) for place, count in lines.seen.items() for time in {1, count}]
    written = set()
    for place, time in moments[::step]:
        model = make()
        with Lines(place, time), suppress(KeyboardInterrupt):
            run(model)
        assert same(values(model), before) or same(values(model), wanted), (place, time)
        modes = torch._C._len_torch_function_stack(), torch._C._len_torch_dispatch_stack()
        assert (*modes, torch.is_grad_enabled()) == (0, 0, True), (place, time)
        assert torch._dynamo.eval_frame._stance == stance, (place, time)
        if same(values(model), wanted):
            written.add(place)
    # After the write, nothing is left but to return; and a line or two do not run where something is known by then.
    assert len(written) < 12, written
    run(model)
    assert same(values(model), wanted)


@pytest.mark.parametrize("kind", NETWORKS)
def test_interrupted_at_any_line_all_parameters_are_written_or_none(
    ghn: GHN, graph: ArchGraph, kind: str, each_backend: str
) -> None:
    step = 100 if each_backend == "triton" else 1  # interpreted kernels take their time
    check_every_line(NETWORKS[kind], lambda model: ghn.predict(model, graph=graph, report=True), step)


class ReadingNetwork(Network):
    """Reads values of features: its trace runs on numbers, in a copy."""

    def forward(self, x: Tensor) -> Tensor:
        found = super().forward(x)
        return found * 2 if found.sum() > 0 else found


def reading_network() -> Network:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return ReadingNetwork()


@pytest.mark.parametrize("make", [network, reading_network])
def test_interrupted_at_any_line_of_a_trace_no_parameter_is_written(make: Callable[[], Network], ghn: GHN) -> None:
    """And torch is as it was: a trace's mode that stays would have everybody's calls."""
    check_every_line(make, lambda model: ghn.predict(model, input_shape=IMAGE))


class Calls(TorchDispatchMode):
    """Counts what torch computes, and fails at the call with a number."""

    def __init__(self, stop: int = -1) -> None:
        super().__init__()
        self.stop, self.count = stop, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        if self.count - 1 == self.stop:
            raise RuntimeError(f"call {self.stop}: {func}")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("backend", ["torch", "cpp"])
def test_failing_at_any_computation_of_torch_all_parameters_are_written_or_none(
    ghn: GHN, graph: ArchGraph, kind: str, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GHNFAST_BACKEND", backend)
    before, model = values(NETWORKS[kind]()), NETWORKS[kind]()
    ghn.predict(NETWORKS[kind](), graph=graph)  # what is done once, and kept
    with Calls() as calls:
        ghn.predict(model, graph=graph)
    wanted = values(model)
    assert calls.count > 5
    for stop in [*range(0, calls.count - 50, 5), *range(max(calls.count - 50, 0), calls.count)]:
        model = NETWORKS[kind]()
        with pytest.raises(RuntimeError, match=f"call {stop}:"), Calls(stop):
            ghn.predict(model, graph=graph)
        assert same(values(model), before) or same(values(model), wanted), stop


# At a stage -----------------------------------------------------------------------------------------------------------


class Forgetful(Network):
    """Says what its parameters are once."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def named_parameters(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Parameter]]:
        self.asked += 1
        if self.asked > 1:
            raise RuntimeError("the parameters are gone")
        return super().named_parameters(*args, **kwargs)


def raising(*args: Any, **kwargs: Any) -> Any:
    raise MemoryError("no memory is left")


def with_shape(graph: ArchGraph, shape: Any) -> ArchGraph:
    changed = dataclasses.replace(graph)
    object.__setattr__(changed, "input_shape", shape)
    return changed


@pytest.mark.parametrize("report", [False, True])
def test_a_warning_that_is_an_error_comes_before_the_write(ghn: GHN, each_backend: str, report: bool) -> None:
    model = network()
    before = values(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(DomainWarning, match="images of 3x8x8"):
            ghn.predict(model, input_shape=(3, 16, 16), report=report)
    assert same(values(model), before)
    with pytest.warns(DomainWarning):
        ghn.predict(model, input_shape=(3, 16, 16), report=report)
    assert not same(values(model), before)


@pytest.mark.parametrize("shape", [5, (3, None, object()), object()])
def test_a_graph_with_a_shape_that_is_none_changes_nothing(ghn: GHN, graph: ArchGraph, shape: Any) -> None:
    class Unspeakable:
        def __str__(self) -> str:
            raise ValueError("no words")

    for given in (shape, (Unspeakable(),)):
        model = network()
        before = values(model)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises((TypeError, ValueError, Warning, ghnfast.GhnfastError)):
                ghn.predict(model, graph=with_shape(graph, given))
        assert same(values(model), before)


def test_the_model_is_asked_for_its_parameters_before_the_write(ghn: GHN, graph: ArchGraph) -> None:
    model = Forgetful()
    _, report = ghn.predict(model, graph=graph, report=True)
    assert report.coverage == 1
    assert report.predicted == [name for name, _ in nn.Module.named_parameters(model)]
    model = Forgetful()
    model.asked = 1
    before = [parameter.detach().clone() for _, parameter in nn.Module.named_parameters(model)]
    with pytest.raises(RuntimeError, match="the parameters are gone"):
        ghn.predict(model, graph=graph, report=True)
    assert same(before, [parameter for _, parameter in nn.Module.named_parameters(model)])


STAGES = [
    ("ghnfast.prediction.predictor.make_report", ["torch", "cpp", "triton"]),
    ("ghnfast.prediction.job.decoded_part", ["torch"]),
    ("ghnfast.ops.decode.naive.naive_blocks", ["torch"]),
    ("torch._foreach_copy_", ["torch"]),
    ("torch.autograd.graph.increment_version", ["cpp"]),
    ("ghnfast.prediction.job.memory_of", ["cpp", "triton"]),
    ("ghnfast.prediction.job.lay_out_slots", ["cpp"]),
    ("ghnfast.nn.device.upload", ["triton"]),
    ("ghnfast.nn.forward.run_layers", ["triton"]),
]


@pytest.mark.parametrize(("stage", "backend"), [(stage, b) for stage, backends in STAGES for b in backends])
def test_a_stage_that_fails_changes_nothing(
    ghn: GHN, graph: ArchGraph, stage: str, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GHNFAST_BACKEND", backend)
    models = [network(), network()]
    before = values(models[0])
    ghn.predict(models, graph=[graph] * 2, report=True)  # whatever is kept for the next time
    models = [network(), network()]
    with monkeypatch.context() as patched:
        patched.setattr(stage, raising)
        with pytest.raises(MemoryError):
            ghn.predict(models, graph=[graph] * 2, report=True)
    assert all(same(values(model), before) for model in models)


def test_a_failed_prediction_does_not_count_as_a_write(ghn: GHN, graph: ArchGraph) -> None:
    """Backward passes through what was computed before stay possible."""
    model = network()
    loss = model(torch.ones(2, *IMAGE)).square().sum()
    model.a.half()
    broken = GHN(max_shape=(4, 4, 3, 3), num_classes=3, hid=4)
    with torch.no_grad():
        broken.decoder.conv[2].weight.fill_(1e6)
    versions = [parameter._version for parameter in model.parameters()]
    with pytest.raises(PredictError, match=r"not finite in torch\.float16"):
        broken.predict(model, graph=graph)
    assert versions == [parameter._version for parameter in model.parameters()]
    loss.backward()
    ghn.predict(model, graph=graph)
    assert all(map(int.__lt__, versions, [parameter._version for parameter in model.parameters()]))


def test_the_second_of_two_models_fails(ghn: GHN, graph: ArchGraph, each_backend: str) -> None:
    """Whatever it is that fails."""
    with torch.device("meta"):
        empty = Network()
    expanded = network()
    expanded.fc.weight = nn.Parameter(torch.zeros(1, 6).expand(3, 6))
    renamed = network()
    renamed.add_module("other", renamed._modules.pop("fc"))
    for second, given in itertools.product([empty, expanded, renamed], [graph, None]):
        if second is renamed and given is None:
            continue
        model = network()
        before = values(model)
        graphs = [graph, graph] if given is not None else None
        with pytest.raises(ghnfast.GhnfastError):
            ghn.predict([model, second], graph=graphs, input_shape=None if graphs else IMAGE)
        assert same(values(model), before)


def test_a_report_of_no_elements() -> None:
    assert ghnfast.Report([], {}, 0, 0).coverage == 1
    assert ghnfast.Report([], {"a": "it is empty"}, 0, 4).coverage == 0


def test_a_model_without_elements_in_a_list(ghn: GHN, graph: ArchGraph) -> None:
    class Empty(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(0, 3))

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([x.mean((2, 3)), x.mean((2, 3)) @ self.weight.t()], dim=1)

    models: list[nn.Module] = [network(), Empty()]
    _, reports = ghn.predict(models, input_shape=IMAGE, report=True)
    assert [report.coverage for report in reports] == [1, 1]  # type: ignore[attr-defined]
    assert reports[1].skipped == {"weight": "it is empty"} or reports[1].elements == 0
