"""The start of training: networks that pass their channels on."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from helpers.tiny import tiny_config
from torch import Tensor, nn

from ghnfast.deepnets.dataset import DeepNet
from ghnfast.errors import TrainingError
from ghnfast.families import TRAINED, Families
from ghnfast.training import ImageData
from ghnfast.training.networks import call
from ghnfast.training.run import make_dataset, make_ghn
from ghnfast.training.start import (
    GAIN,
    Goal,
    centred,
    distance_to,
    identity_for,
    is_plain,
    noise,
    smooth_filters,
    start_from_identity,
)

TILE = (8, 8)


@pytest.mark.parametrize("shape", [(6, 6, 3, 3), (6, 1, 5, 5), (8, 4, 1, 1), (8, 16, 1, 1), (20, 12, 3, 3)])
def test_identities_pass_channels_on(shape: tuple[int, ...]) -> None:
    target = identity_for("conv", shape, TILE, 10, 0)
    assert target is not None
    rows, columns, height, _ = shape
    groups = rows if columns == 1 else 1
    convolution = nn.Conv2d(columns * groups, rows, height, padding="same", bias=False, groups=groups)
    convolution.weight = nn.Parameter(target)
    images = torch.randn(2, columns * groups, 7, 7)
    found = convolution(images) / GAIN
    for channel in range(rows):
        if columns == 1:
            sources = [channel]
        else:
            count = min(rows, columns, *TILE)
            sources = [source for source in range(columns) if source % 8 % count == channel % 8 % count]
        expected = images[:, sources].sum(1) / len(sources) ** 0.5
        torch.testing.assert_close(found[:, channel], expected)


def test_what_stays_as_it_is() -> None:
    for name, shape in {
        "norm.weight": (8,),
        "pos_enc.weight": (1, 8, 11, 11),
        "relative_position_bias_table": (9, 8),
        "classifier.1.weight": (10, 8),
        "fc.weight": (10, 8),
    }.items():
        assert identity_for(name, shape, TILE, 10, 0) is None
    for name in ("classifier.0.weight", "attention.to_qkv.weight", "blocks.0.self_attention.in_proj_weight"):
        hidden = identity_for(name, (16, 8), TILE, 10, 0)
        assert hidden is not None
        assert hidden.shape == (16, 8)
        assert torch.equal(hidden, GAIN * torch.eye(8).repeat(2, 1))


def test_filters_that_read_images() -> None:
    target = identity_for("stem.weight", (20, 3, 5, 5), TILE, 10, 0)
    assert target is not None
    assert torch.equal(target[:8], target[8:16])  # beyond the tile they repeat
    assert torch.equal(target[:, 0], target[:, 2])
    torch.testing.assert_close(target.flatten(1).norm(dim=1), torch.full((20,), GAIN))
    filters = smooth_filters(5, 5, 8, 0)
    assert torch.linalg.matrix_rank(filters.flatten(1)) == 8
    assert not torch.equal(filters, smooth_filters(5, 5, 8, 1))


@pytest.mark.parametrize("changes", [{}, {"ve": False, "layernorm": False, "weight_norm": False}, {"hypernet": "mlp"}])
def test_regression_comes_close_and_leaves_the_rest(few_images: ImageData, changes: dict[str, Any]) -> None:
    config = tiny_config(**changes, hid=16, max_shape=(8, 8, 5, 5))
    dataset = make_dataset(config, few_images)
    ghn, first, *twice = (make_ghn(config, few_images) for _ in range(4))
    before = {name: value.clone() for name, value in ghn.state_dict().items()}
    assert start_from_identity(ghn, dataset, 0, 0) == 1
    assert all(torch.equal(value, before[name]) for name, value in ghn.state_dict().items())
    distance = start_from_identity(ghn, dataset, 80, 0)
    assert distance < 0.6
    for each in twice:
        start_from_identity(each, dataset, 4, 0)
    assert all(map(torch.equal, *(each.state_dict().values() for each in twice)))
    assert not torch.equal(twice[0].primitive_embedding.weight, before["primitive_embedding.weight"])
    graph = dataset[12345].graph
    moved: list[Tensor] = []
    kept: list[Tensor] = []
    with torch.no_grad():
        for (name, value), own in zip(ghn([graph])[0].items(), first([graph])[0].values(), strict=True):
            target = identity_for(name, tuple(value.shape), TILE, 10, 0)
            if target is None:
                kept.append((value - own).norm() / own.norm().clamp(min=1e-1))
            else:
                moved.append((value - centred(own) - target).norm() / target.norm())
    assert torch.stack(moved).median() < 0.8
    assert torch.stack(kept).median() < 0.3


def test_regression_that_fails_is_an_error(few_images: ImageData) -> None:
    config = tiny_config()
    ghn = make_ghn(config, few_images)
    with torch.no_grad():
        ghn.primitive_embedding.weight.fill_(float("nan"))
    with pytest.raises(TrainingError, match="identity_steps is 2, and the GHN's error is nan"):
        start_from_identity(ghn, make_dataset(config, few_images), 2, 0)


def test_networks_without_normalization(few_images: ImageData) -> None:
    dataset = make_dataset(tiny_config(), few_images)
    for index in range(150):
        net = dataset[index]
        assert isinstance(net, DeepNet)
        assert is_plain(net) == (net.args["norm"] is None)
    plain = list(itertools.islice(Goal.without_normalization(dataset), 3))
    assert all(map(is_plain, plain))
    families = {name: is_plain(Families(families=[name])[0]) for name in TRAINED}
    assert {name for name, is_one in families.items() if is_one} == {"vgg", "squeezenet"}


@pytest.mark.parametrize("family", ["vgg", "squeezenet", "deepnets"])
def test_targets_keep_the_size_of_what_passes(few_images: ImageData, family: str) -> None:
    config = tiny_config()
    ghn, dataset = make_ghn(config, few_images), make_dataset(config, few_images)
    plain = Goal.without_normalization(dataset)
    nets = [next(plain) for _ in range(4)] if family == "deepnets" else list(Families(size=4, families=[family]))
    for net in nets:
        with torch.no_grad():
            (own,) = ghn(net.graph)
        targets = Goal(ghn, 0).of(net, own)
        network = net.build(light=True).eval()
        sizes: list[float] = []

        def watch(_: nn.Module, __: object, output: Tensor, sizes: list[float] = sizes) -> None:
            sizes.append(float(output.square().mean().sqrt()))

        for name, module in network.named_modules():
            if f"{name}.weight" in targets:
                module.register_forward_hook(watch)
        with torch.no_grad():
            call(network, {**own, **targets}, noise((3, 32, 32), 0))
        assert len(sizes) > 3
        assert all(0.2 < size < 5 for size in sizes)  # 1, but for biases


def test_errors_of_one_sign_weigh_more() -> None:
    target, error = torch.eye(6), torch.full((6, 6), 0.1)
    signs = torch.tensor([1.0, -1.0]).repeat(3)
    assert distance_to(target, target) == 0
    assert distance_to(target + error, target) > 5 * distance_to(target + error * signs, target)
    assert centred(torch.rand(4, 3, 2, 2)).flatten(1).sum(1).abs().max() < 1e-5
