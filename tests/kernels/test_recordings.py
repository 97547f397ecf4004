"""Forward passes that are recorded: they compute what launching them one by one does, for whatever comes between.

The GPU is none (`helpers.counted_gpu`): recordings are replayed on the memory that they were made with.
"""

from __future__ import annotations

import copy
import gc
import weakref
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers import counted_gpu
from helpers.counted_gpu import CountedGpu, Counts, values_of
from helpers.counted_predictions import SMALL, assert_predicted, definition, ghn_of
from torch import nn

import ghnfast
from ghnfast.errors import BackendError, PredictError
from ghnfast.kernels import driver, launching
from ghnfast.nn import recordings
from ghnfast.nn.forward import Forward

KINDS = ["mlp", "ghn3"]  # a sweep in Triton allocates


def network(classes: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes))


class Case:
    """A GHN on the GPU, its graph, models of it, and what the definition predicts."""

    def __init__(self, gpu: CountedGpu, kind: str, classes: int = 10) -> None:
        self.gpu, self.ghn, self.model = gpu, ghn_of(SMALL[kind]), network(classes)
        self.graph = ghnfast.trace(self.model, input_shape=(3, 16, 16))
        self.on_gpu = gpu.put(copy.deepcopy(self.ghn))

    def fresh(self) -> nn.Module:
        moved: nn.Module = self.gpu.put(copy.deepcopy(self.model))
        return moved

    def assert_right(self, recorded: bool | None, **options: Any) -> Counts:
        """recorded: whether it is to be predicted by a recording; None where that does not matter."""
        moved = self.fresh()
        wanted = definition(self.ghn, self.model, self.graph) if self.gpu.interpret else {}
        if not options.get("classifier", True):
            wanted |= {name: value.detach() for name, value in self.model.named_parameters() if name.startswith("3.")}
        with self.gpu.counting() as counts:
            self.on_gpu.predict(moved, graph=self.graph, **options)
        if self.gpu.interpret:
            assert_predicted(moved, wanted)
        if recorded is not None:
            assert counts["kernel recorded"] == recorded
        if recorded:
            assert counts.launches <= 5  # the recording, products, stores, where they go, the verdict
        return counts

    def record(self) -> None:
        for _ in range(recordings.AFTER):
            self.assert_right(False)
        self.assert_right(True)


@pytest.mark.parametrize("kind", KINDS)
def test_predictions_are_those_of_the_definition(gpu: CountedGpu, kind: str) -> None:
    case = Case(gpu, kind)
    case.record()
    for _ in range(2):
        case.assert_right(True)


@pytest.mark.parametrize("kind", KINDS)
def test_other_weights(gpu: CountedGpu, kind: str) -> None:
    case = Case(gpu, kind)
    case.record()
    with torch.no_grad():
        for parameter, own in zip(case.on_gpu.parameters(), case.ghn.parameters(), strict=True):
            parameter.mul_(0.7)
            own.mul_(0.7)
    case.assert_right(None)
    case.assert_right(None)


def test_weights_that_change_each_time(quiet_gpu: CountedGpu) -> None:
    """Recording takes longer than a launch: it is for weights that stay."""
    case = Case(quiet_gpu, "mlp")
    case.record()
    for _ in range(recordings.AFTER + 2):
        with torch.no_grad():
            next(case.on_gpu.parameters()).mul_(0.9)
        case.assert_right(False)
    for _ in range(recordings.AFTER - 1):
        case.assert_right(False)
    case.assert_right(True)


def test_in_turns_with_and_without_the_classifier(gpu: CountedGpu) -> None:
    """What comes first is a guess, that the next prediction is as the last one."""
    case = Case(gpu, "mlp")
    for _ in range(recordings.AFTER):
        case.assert_right(False)
        case.assert_right(None, classifier=False)
    for _ in range(2):
        for options in ({}, {"classifier": False}):
            counts = case.assert_right(None, **options)
            assert counts["kernel recorded"] in (1, 2)  # that of the guess, where there is one, and its own
            assert counts["kernel embed_kernel"] == counts["kernel begin_kernel"] == 0


def test_graphs_in_turns(quiet_gpu: CountedGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than are kept: the one that was not used for longest goes, and is recorded anew after more launches."""
    monkeypatch.setattr(recordings, "KEPT", 2)
    first = Case(quiet_gpu, "mlp")
    cases = [first, *(Case(quiet_gpu, "mlp", classes) for classes in (7, 23))]
    for case in cases[1:]:
        case.ghn, case.on_gpu = first.ghn, first.on_gpu
    for case in cases:
        case.record()
    cases[2].assert_right(True)
    for _ in range(recordings.PATIENCE * recordings.AFTER):
        cases[0].assert_right(False)
        cases[1].assert_right(True)
    cases[0].assert_right(True)  # in the place of the third
    cases[1].assert_right(True)
    cases[2].assert_right(False)
    known = first.on_gpu.device_form.known
    assert known is not None
    assert len(known[1].recordings.kept) == 2


def test_one_prediction_at_a_time_has_it(gpu: CountedGpu) -> None:
    """As another thread would meanwhile; and when that one has failed."""
    case = Case(gpu, "ghn3")
    case.record()
    begun = case.on_gpu.begin(case.graph.__dict__["own_batch"])
    assert begun.use is not None
    case.assert_right(False)
    del begun
    case.assert_right(True)


def test_a_prediction_that_fails_gives_it_back(gpu: CountedGpu) -> None:
    case = Case(gpu, "ghn3")
    case.record()
    other = gpu.put(nn.Sequential(nn.Linear(3, 3)))
    before = {name: value.clone() for name, value in values_of(other).items()}
    with pytest.raises(PredictError, match="the graph has a parameter"):
        case.on_gpu.predict(other, graph=case.graph)
    assert all(torch.equal(value, before[name]) for name, value in values_of(other).items())
    gc.collect()  # the error, which has it as long as somebody has the error
    case.assert_right(True)


def test_another_stream_has_its_own(quiet_gpu: CountedGpu) -> None:
    case = Case(quiet_gpu, "mlp")
    case.record()
    with quiet_gpu.on_stream(1):
        case.record()  # one of its own
    case.assert_right(True)
    known = case.on_gpu.device_form.known
    assert known is not None
    assert [each.stream for each in known[1].recordings.kept] == [1, 0]  # the last one used at the end


def test_who_looks_at_launches_sees_them(quiet_gpu: CountedGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(quiet_gpu, "mlp")
    case.record()
    known = case.on_gpu.device_form.known
    assert known is not None
    assert known[1].prepared is not None
    assert known[1].prepared.has_hooks is launching.has_hooks
    monkeypatch.setattr(known[1].prepared, "has_hooks", lambda: True)
    case.assert_right(False)


def test_a_capture_of_others_is_not_recorded(quiet_gpu: CountedGpu) -> None:
    case = Case(quiet_gpu, "mlp")
    case.record()
    moved = case.fresh()
    case.on_gpu.predict(moved, graph=case.graph)
    quiet_gpu.capturing = True
    with quiet_gpu.counting() as counts:
        case.on_gpu.predict(moved, graph=case.graph)
    quiet_gpu.capturing = False
    assert counts["kernel recorded"] == 0
    case.assert_right(True)


def test_what_is_large_is_not_recorded(quiet_gpu: CountedGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recordings, "MOST_ELEMENTS", 10)
    case = Case(quiet_gpu, "mlp")
    for _ in range(recordings.AFTER + 2):
        case.assert_right(False)


def test_weights_that_are_not_finite_are_named(gpu: CountedGpu) -> None:
    """Written past torch's count, after a recording: the verdict is that of the weights as they were looked at; another
    state of them is looked at again."""
    case = Case(gpu, "mlp")
    case.record()
    with torch.no_grad():
        case.on_gpu.get_parameter("primitive_embedding.weight").fill_(float("nan"))
    with pytest.raises(PredictError, match="these weights of GHN are not finite"):
        case.on_gpu.predict(case.fresh(), graph=case.graph)


def test_memory_goes_with_the_weights(quiet_gpu: CountedGpu) -> None:
    """At once, without a collection of garbage."""
    case = Case(quiet_gpu, "ghn3")
    case.record()
    known = case.on_gpu.device_form.known
    assert known is not None
    recorded = weakref.ref(known[1].recordings.kept[0])
    del known
    with torch.no_grad():
        next(case.on_gpu.parameters()).mul_(0.5)
        next(case.ghn.parameters()).mul_(0.5)
    case.assert_right(None)
    assert recorded() is None


def test_a_driver_that_records_nothing(quiet_gpu: CountedGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels are launched one by one, as before."""

    case = Case(quiet_gpu, "mlp")
    for _ in range(recordings.AFTER):
        case.assert_right(False)
    monkeypatch.setattr(Forward, "recorded", refuse)
    for _ in range(2):
        case.assert_right(False)


@pytest.mark.parametrize("at_first", [True, False])
def test_a_driver_that_launches_no_recording(gpu: CountedGpu, monkeypatch: pytest.MonkeyPatch, at_first: bool) -> None:
    """It may have no memory left for it, which shows in its first launch."""
    case = Case(gpu, "mlp")
    for _ in range(recordings.AFTER):
        case.assert_right(False)
    if not at_first:
        case.assert_right(True)
    monkeypatch.setattr(counted_gpu.Recording, "launch", refuse)
    for _ in range(2):
        case.assert_right(False)


def refuse(*arguments: Any) -> None:
    raise BackendError("NVIDIA's driver: out of memory")


def test_a_driver_without_a_function(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is one that does not record, not one that fails."""
    monkeypatch.setattr(driver, "library", SimpleNamespace)
    with pytest.raises(BackendError, match="NVIDIA's driver has no cuGraphLaunch"):
        driver.Recording(torch.device("cuda", 0), [])
