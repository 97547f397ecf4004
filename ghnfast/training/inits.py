"""What fine-tuning starts from: random numbers, what a GHN predicts, or the weights of a file."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from .. import checkpoints
from ..checkpoints import DEFAULT
from ..checkpoints.contents import is_plain_tensor
from ..errors import CheckpointError, DomainWarning, TrainingError
from ..graph import ArchGraph
from ..nn import GHN
from ..ops.decode import Role
from ..predict import load
from ..prediction.slots import slots_of
from ..randomness import drawing_from

Source = str | os.PathLike[str] | GHN | Mapping[str, Tensor]
OWN, HE, RANDOM, DEFAULT_GHN = "own", "he", "random", "default"
ACCEPTED = (
    f"'{OWN}' (what the model's constructor draws), '{HE}', '{RANDOM}' (a GHN that nobody has trained), "
    f"'{DEFAULT_GHN}', the name or file of a GHN, or a file with the model's weights"
)


@dataclass(frozen=True, eq=False)
class Init:
    """An initialization.

    Attributes:
        name: for tables.
        digest: of everything that it is made of.
        apply: (model, graph, seed): gives a model that was just built its parameters, in place. The classification
            layer keeps those that it has.
    """

    name: str
    digest: str
    apply: Callable[[nn.Module, ArchGraph, int], None]


def init_of(source: Source) -> Init:
    """The initialization that a source stands for.

    Args:
        source: "own": what the model's constructor draws. "he": weights from N(0, 2 / fan_in) (He et al., 2015), biases
            0, normalization weights 1, of the parameters that a GHN predicts. "random": a GHN like the default one,
            whose weights are drawn with the seed. "default": the default GHN; a GHN, or its name or file. The weights
            of a model, or a file with them (.safetensors, or .pt or .pth of `torch.save(model.state_dict(), ...)`).

    Raises:
        TrainingError: it is something else.
        CheckpointError: the file or name does not exist, or is damaged.
    """
    if isinstance(source, GHN):
        return from_ghn(source)
    if isinstance(source, Mapping):
        if not all(isinstance(key, str) and is_plain_tensor(value) for key, value in source.items()):
            raise TrainingError(
                "init is a mapping with something else than dense tensors in memory by name; weights are accepted"
            )
        return from_weights("weights", source)
    if not isinstance(source, (str, os.PathLike)):
        raise TrainingError(f"init is a {type(source).__name__}; {ACCEPTED} is accepted")
    if source == OWN:
        return Init(OWN, OWN, lambda model, graph, seed: None)
    if source == HE:
        return Init(HE, HE, draw_he)
    if source == RANDOM:
        return Init(RANDOM, RANDOM, draw_ghn)
    if source == DEFAULT_GHN:
        return from_ghn(load(DEFAULT))
    try:
        path = checkpoints.resolve(source)
        weights = checkpoints.network_weights(path)
        return from_ghn(load(source)) if weights is None else from_weights(Path(path).name, weights)
    except (CheckpointError, OSError) as error:
        raise CheckpointError(f"init is {os.fsdecode(source)!r:.300}: {error}; {ACCEPTED} is accepted") from error


def from_ghn(ghn: GHN) -> Init:
    def apply(model: nn.Module, graph: ArchGraph, seed: int) -> None:
        predict_all_but_classifier(ghn, model, graph)

    return Init(ghn.name, digest_of(ghn.state_dict()), apply)


def predict_all_but_classifier(ghn: GHN, model: nn.Module, graph: ArchGraph) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DomainWarning)  # of other images and classes: that is what transfer is
        ghn.predict(model, graph=graph, classifier=False)


def draw_ghn(model: nn.Module, graph: ArchGraph, seed: int) -> None:
    """A GHN like the default one, with random weights."""
    config = load(DEFAULT).config
    with drawing_from(seed):
        ghn = GHN(**config).eval()
    predict_all_but_classifier(ghn, model, graph)


@torch.no_grad()
def draw_he(model: nn.Module, graph: ArchGraph, seed: int) -> None:
    """He's initialization of the parameters that a GHN predicts."""
    slots = slots_of(graph)
    parameters = dict(model.named_parameters())
    classifier = classifier_of(graph)
    with drawing_from(seed):
        for name, form in zip(slots.names, slots.forms, strict=True):
            parameter = parameters.get(name)
            if parameter is None or name in classifier or name in slots.reparametrized:
                continue  # parts and computed weights keep what their constructors have drawn
            if form.role is Role.WEIGHT:
                nn.init.kaiming_normal_(parameter, nonlinearity="relu")
            elif form.role is not Role.POSITION:
                parameter.fill_(1.0 if form.role is Role.NORM_WEIGHT else 0.0)


def classifier_of(graph: ArchGraph) -> set[str]:
    """The parameters of the classification layer."""
    slots = slots_of(graph)
    return {own for slot in slots.optional for own in slots.parameters_of(slots.names[slot])}


def from_weights(name: str, weights: Mapping[str, Tensor]) -> Init:
    def apply(model: nn.Module, graph: ArchGraph, seed: int) -> None:
        head = classifier_of(graph)
        there = {key: value for key, value in model.state_dict().items() if key not in head}
        given = {key: value for key, value in weights.items() if key not in head}
        counts = {key for key in there if key.endswith("num_batches_tracked")}
        missing, unknown = sorted(there.keys() - given.keys() - counts), sorted(given.keys() - there.keys() - counts)
        if missing or unknown:
            what = f"has no {missing[0]}" if missing else f"has {unknown[0]}, which the model has not"
            raise TrainingError(f"init {name!r} {what}; the weights of this model are accepted, with any last layer")
        for key in there.keys() & given.keys():
            if there[key].shape != given[key].shape:
                raise TrainingError(
                    f"init {name!r}: {key} has the shape {tuple(given[key].shape)}, and {tuple(there[key].shape)} in "
                    "the model; the same is accepted"
                )
        model.load_state_dict({key: given[key] for key in there.keys() & given.keys()}, strict=False)

    return Init(name, digest_of(weights), apply)


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """Of names, dtypes, shapes and numbers."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        if tensor.numel():
            digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]
