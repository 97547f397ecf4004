"""Which parameters of a model are predicted from which node, in what shape, and where they are written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import PredictError
from ..graph import PREDICTED_DTYPES, PRIMITIVES, ArchGraph, embedding_shape
from ..ops.decode import Role


@dataclass(frozen=True)
class Slot:
    """A parameter of one model and what it is predicted from.

    node: the node of the batch that it is decoded from.
    classifier: whether that node is the classification layer's, which has a decoder of its own.
    optional: whether `classifier=False` leaves the parameter alone: it is the classification layer's, or tied to it.
    shape: the shape to decode for; it differs from the parameter's only by dimensions of size 1.
    """

    name: str
    parameter: Tensor
    node: int
    role: Role
    shape: tuple[int, ...]
    classifier: bool
    optional: bool


@dataclass(frozen=True)
class Report:
    """What a prediction did to one model.

    predicted: the names of the parameters that were predicted, in the model's order.
    skipped: {name: reason} of those that kept their values.
    predicted_elements, elements: how many numbers were predicted, of how many.
    """

    predicted: list[str]
    skipped: dict[str, str]
    predicted_elements: int
    elements: int

    @property
    def coverage(self) -> float:
        """The share of the model's numbers that were predicted, 0 to 1."""
        return self.predicted_elements / self.elements


# Rows in front of the patches in a position encoding: a class token, and one for distillation.
MAX_TOKENS = 2


def check_finite(slots: Sequence[Slot], blocks: Sequence[Tensor]) -> None:
    for slot, block in zip(slots, blocks, strict=True):
        if not torch.isfinite(block).all():
            raise PredictError(
                f"the values predicted for {slot.name} are not finite in {block.dtype}: the GHN's weights are too "
                "large. No parameter was changed."
            )


def plan_slots(model: nn.Module, graph: ArchGraph, offset: int) -> tuple[list[Slot], dict[str, str]]:
    """The parameters of a model that its graph predicts, and why each of the others is skipped."""
    parameters = dict(model.named_parameters())
    last = [node for node in (graph.classifier_weight, graph.classifier_bias) if node is not None]
    optional = {graph.weights[node] for node in classification_nodes(graph)}
    slots: dict[str, Slot] = {}
    skipped = {name: reason for name, reason in graph.skipped.items() if name in parameters}
    skipped |= {
        name: f"its dtype is {parameter.dtype}; float32, float64, float16 and bfloat16 are predicted"
        for name, parameter in parameters.items()
        if parameter.dtype not in PREDICTED_DTYPES
    }
    for node, names in enumerate(zip(graph.weights, graph.norm_biases, strict=True)):
        for name, is_norm_bias in zip(names, (False, True), strict=True):
            if name is None or name in slots or name in skipped:
                continue
            if name not in parameters:
                raise PredictError(f"the graph has a parameter {name} that the model ({type(model).__name__}) has not")
            role = Role.BIAS if is_norm_bias else role_of(PRIMITIVES[graph.primitives[node]])
            shape, reason = decoded_shape(parameters[name], role)
            if reason is not None:
                skipped[name] = reason
                continue
            check_writable(name, parameters[name])
            check_same_shape(name, parameters[name], graph)
            slots[name] = Slot(name, parameters[name], offset + node, role, shape, node in last, name in optional)
    for name in parameters.keys() - slots.keys() - skipped.keys():
        skipped[name] = "the graph does not know it"
    return list(slots.values()), skipped


def classification_nodes(graph: ArchGraph) -> set[int]:
    """The nodes of the classification layer, and of those that are averaged with it (distillation)."""
    last = {node for node in (graph.classifier_weight, graph.classifier_bias) if node is not None}
    if not last:
        return last
    edges = graph.edges.tolist()
    readers = [target for source, target in edges if source == max(last)]
    if len(readers) != 1 or graph.ops[readers[0]] != "sum" or any(source == readers[0] for source, _ in edges):
        return last
    heads = {source for source, target in edges if target == readers[0]}
    weights = {source for source, target in edges if target in heads and graph.ops[target] == "bias"}
    return last | {node for node in heads | weights if graph.ops[node] in ("bias", "conv")}


def role_of(primitive: str) -> Role:
    if primitive in ("bn", "ln"):
        return Role.NORM_WEIGHT
    return {"bias": Role.BIAS, "pos_enc": Role.POSITION}.get(primitive, Role.WEIGHT)


def decoded_shape(parameter: Tensor, role: Role) -> tuple[tuple[int, ...], str | None]:
    """The shape to decode for a parameter, or the reason why it cannot be decoded."""
    shape = tuple(parameter.shape)
    if parameter.layout != torch.strided:
        return shape, f"its layout is {parameter.layout}; dense parameters are predicted"
    if parameter.numel() == 0:
        return shape, "it is empty"
    if role in (Role.BIAS, Role.NORM_WEIGHT):
        if sum(size > 1 for size in shape) > 1:
            return shape, f"a {role.value} of shape {shape}; vectors are predicted"
        return (parameter.numel(),), None
    if role is Role.POSITION:
        return embedding_shape(shape, position=True), None
    if len(shape) not in (2, 4):
        return shape, f"a weight of shape {shape}; matrices and 4-D kernels are predicted"
    return shape, None


def check_writable(name: str, parameter: Tensor) -> None:
    if any(stride == 0 and size > 1 for size, stride in zip(parameter.shape, parameter.stride(), strict=True)):
        raise PredictError(
            f"the parameter {name} is expanded: several of its elements share memory (strides {parameter.stride()}); "
            "parameters with memory of their own are accepted"
        )
    if parameter.is_meta:
        raise PredictError(
            f"the parameter {name} is on the meta device and has no memory to write to; "
            "move the model to a real device first, with model.to_empty(device=...)"
        )


def check_same_shape(name: str, parameter: Tensor, graph: ArchGraph) -> None:
    traced = graph.parameter_shapes[name]
    if tuple(parameter.shape) != traced:
        raise PredictError(
            f"the graph is that of another model: {name} has shape {traced} in the graph and "
            f"{tuple(parameter.shape)} in the model; the graph of a model with equal names and shapes is accepted"
        )


def decoded_part(slot: Slot) -> Tensor:
    """The part of a parameter's memory that its block is tiled over."""
    target = slot.parameter.detach()
    if slot.role is Role.POSITION and target.ndim != 4:
        # Tokens in front (class, distillation) keep their values.
        count, patches = target.shape[-2], slot.shape[2] * slot.shape[3]
        tokens = count - patches if count - patches <= MAX_TOKENS else 0
        return target.narrow(target.ndim - 2, tokens, count - tokens)
    if slot.role in (Role.BIAS, Role.NORM_WEIGHT):
        return target.squeeze() if target.numel() > 1 else target.view(1)
    return target


def block_for(slot: Slot, decoded: Tensor) -> Tensor:
    """The decoder's result for a slot, with the dimensions of its parameter."""
    if len(slot.shape) == 1:
        if decoded.ndim == 2:  # row 0 is a normalization weight, row 1 any bias
            decoded = decoded[0 if slot.role is Role.NORM_WEIGHT else 1]
        return decoded[: slot.shape[0]]
    if slot.classifier:
        return decoded[: slot.shape[0]].reshape(-1, decoded.shape[1], *(1,) * (len(slot.shape) - 2))
    if slot.role is Role.POSITION and slot.parameter.ndim != 4:
        return decoded.flatten(2).transpose(1, 2)[(0,) * (3 - slot.parameter.ndim)]
    return decoded if len(slot.shape) == 4 else decoded[..., 0, 0]


def nothing_reason(plans: Sequence[tuple[list[Slot], dict[str, str]]]) -> str:
    for _, skipped in plans:
        for name, reason in skipped.items():
            return f"{name} is skipped because of this: {reason}"
    return "the models have classification layers only, and classifier=False leaves those as they are"


def make_report(model: nn.Module, plan: Sequence[Slot], skipped: dict[str, str], classifier: bool) -> Report:
    done = {slot.name: slot for slot in plan if classifier or not slot.optional}
    reasons = dict(skipped)
    for slot in plan:
        if slot.name not in done:
            reasons[slot.name] = "it belongs to the classification layer, which was to be left as it is"
    parameters = dict(model.named_parameters())
    ordered = {name: reasons[name] for name in parameters if name in reasons}
    predicted = [name for name in parameters if name in done]
    return Report(
        predicted=predicted,
        skipped=ordered,
        predicted_elements=sum(decoded_part(done[name]).numel() for name in predicted),
        elements=sum(parameter.numel() for parameter in parameters.values()),
    )
