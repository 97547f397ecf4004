"""From models to parameters: trace, prepare, compute, write. Knows no GHN but by what `Predictor` says of one."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypedDict

from torch import nn

from ..checkpoints import TrainedOn
from ..errors import DomainWarning, PredictError
from ..graph import ArchGraph, GraphBatch, batch_of
from ..ops.decode import DecodeSource
from ..surroundings import check_surroundings
from ..tracing import trace_members
from ..tracing.cached import forget_weights
from ..tracing.members import members_of
from .job import LastStep, prepare
from .layout import Layout, Memory, Request
from .report import make_report


class Options(TypedDict, total=False):
    """What `predict` takes by keyword, besides `report`, which its result depends on."""

    graph: ArchGraph | Sequence[ArchGraph] | None
    input_shape: Sequence[int] | None
    example_inputs: Sequence[Any] | Mapping[str, Any] | None
    classifier: bool


class Predictor(Protocol):
    """What a prediction needs of a GHN.

    name: for messages. num_classes, trained_on: the classes and images it is for. precision: see `PRECISIONS`.
    """

    name: str
    num_classes: int
    trained_on: TrainedOn | None

    @property
    def precision(self) -> str: ...

    @property
    def request(self) -> Request:
        """What slots ask the decoders for."""
        ...

    def begin(self, batch: GraphBatch) -> Any:
        """What can be known, or be under way, before it is known what is predicted; `source` takes it."""
        ...

    def source(
        self, batch: GraphBatch, layout: Layout, memory: Memory | None = None, begun: Any = None
    ) -> tuple[DecodeSource, LastStep | None]:
        """Everything but the last step of decoding: forward pass and decoders.

        Args:
            memory: what the last step is to write to, where it is known.
            begun: what `begin` returned for the batch.

        Returns:
            What the last step reads, and what does that step, where the GHN has it.

        Raises:
            PredictError: a weight cannot be read or is not finite.
        """
        ...


def run(
    ghn: Predictor,
    model: nn.Module | Sequence[nn.Module],
    graph: ArchGraph | Sequence[ArchGraph] | None,
    input_shape: Sequence[int] | None,
    example_inputs: Any,
    classifier: bool,
    report: bool,
    stacklevel: int,
) -> Any:
    """Predict and write parameters; see `GHN.predict`. Warnings are about the caller so many frames up.

    Writing comes last: what is said and returned is ready before it.
    """
    check_surroundings("predict", PredictError)
    single = isinstance(model, nn.Module)
    models: list[nn.Module] = as_list(nn.Module, model, "model")
    if not models:
        raise PredictError("an empty list of models was given; one model or more is accepted")
    if graph is None:
        members = [members_of(model) for model in models]
        graphs = [trace_members(*each, input_shape, example_inputs) for each in zip(models, members, strict=True)]
        batch = batch_of(graphs)
        begun = ghn.begin(batch)
    else:
        graphs = graphs_for(models, graph)
        batch = batch_of(graphs)
        begun = ghn.begin(batch)
        members = [members_of(model) for model in models]
    job = prepare(models, members, batch, classifier, ghn.request)
    source, last = ghn.source(batch, job.layout, job.direct_memory, begun)
    notice = next(filter(None, (other_domain(ghn, graph) for graph in graphs)), None)
    if notice is not None:
        hint = "Pass input_shape=(channels, height, width) if it takes others, or another ghn, such as 'ghn2-imagenet'"
        warnings.warn(f"{notice}. {hint}", DomainWarning, stacklevel=stacklevel)
    reports = [make_report(plan) for plan in job.plans] if report else []
    result = (model, reports[0] if single else reports) if report else model
    job.write(source, ghn.name, ghn.precision, last)
    for own in members:
        forget_weights(own.modules)
    return result


def other_domain(ghn: Predictor, graph: ArchGraph) -> str | None:
    """What is to be said where a model takes other images, or has other classes, than the GHN was trained for.

    None where both are the same, or not known.
    """
    if ghn.trained_on is None:
        return None
    data, known = ghn.trained_on
    shape, classes = graph.input_shape or known, graph.num_classes or ghn.num_classes
    if (shape, classes) == (known, ghn.num_classes):
        return None
    sizes, sizes_known = ("x".join(map(str, each)) for each in (shape, known))
    return (
        f"{ghn.name} was trained on {data}, images of {sizes_known} in {ghn.num_classes} classes, and the model "
        f"is for {sizes} in {classes}: the parameters have the right scale, but know nothing of its images"
    )


def graphs_for(models: Sequence[nn.Module], given: ArchGraph | Sequence[ArchGraph]) -> list[ArchGraph]:
    graphs: list[ArchGraph] = as_list(ArchGraph, given, "graph")
    if len(graphs) != len(models):
        raise PredictError(f"{len(graphs)} graphs were given for {len(models)} models; one per model is accepted")
    return graphs


def as_list(accepted: Any, given: Any, what: str) -> list[Any]:
    """`given` as a list of instances of `accepted`."""
    kinds = accepted if isinstance(accepted, tuple) else (accepted,)
    if isinstance(given, kinds):
        return [given]
    items = list(given) if isinstance(given, (list, tuple)) else [given]
    wrong = next((item for item in items if not isinstance(item, kinds)), None)
    if wrong is not None or None in items:
        names = " or ".join("torch.nn.Module" if kind is nn.Module else f"ghnfast.{kind.__name__}" for kind in kinds)
        raise PredictError(f"{what} is or has {wrong!r:.80}; a {names}, or a list of them, is accepted")
    return items
