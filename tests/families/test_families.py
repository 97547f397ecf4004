"""Small members of families of networks."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ghnfast.deepnets import DeepNets1M
from ghnfast.errors import ConfigError, NetworkIndexError
from ghnfast.families import HELD_OUT, TRAINED, Families
from ghnfast.families.dataset import KINDS, traced
from ghnfast.training.networks import Net, call

ALL = TRAINED + HELD_OUT
# What GHNs do not predict.
KEPT = {"layer_scale", "class_token", "relative_position_bias_table"}


def test_every_family_is_trained_or_held_out() -> None:
    assert sorted(ALL) == sorted(KINDS)
    assert not set(TRAINED) & set(HELD_OUT)


@pytest.mark.parametrize("family", ALL)
def test_members(family: str) -> None:
    for split in ("train", "test"):
        net = Families(split, families=[family], num_classes=7)[3]
        network, light = net.build().eval(), net.build(light=True).eval()
        assert network(torch.randn(2, 3, 32, 32)).shape == (2, 7)
        assert {name for name, value in light.named_parameters() if value.is_meta} == set(net.graph.parameter_shapes)
        skipped = set(net.graph.skipped)
        assert {name for name, value in light.named_parameters() if not value.is_meta} == skipped
        assert {name.rpartition(".")[2] for name in skipped} <= KEPT
        assert [(name, value.shape) for name, value in network.named_parameters()] == [
            (name, value.shape) for name, value in light.named_parameters()
        ]
        for (name, value), (other, filled) in zip(network.named_buffers(), light.named_buffers(), strict=True):
            assert name == other
            assert torch.equal(value, filled)
        assert net.graph is net.graph
        parameters = sum(value.numel() for value in network.parameters())
        assert 10_000 < parameters < 40_000_000


@pytest.mark.parametrize("family", ALL)
def test_large_images(family: str) -> None:
    net = Families("test", families=[family], num_classes=5, image_size=64)[0]
    assert net.input_shape == (3, 64, 64)
    assert net.build().eval()(torch.randn(1, 3, 64, 64)).shape == (1, 5)


@pytest.mark.parametrize("family", ["convnext", "vit", "mixer", "swin"])
@given(size=st.integers(32, 150), index=st.integers(0, 20))
@example(size=33, index=0)
@settings(max_examples=3, deadline=None)
def test_images_of_any_size(family: str, size: int, index: int) -> None:
    """Patches need not divide it; and a network is copied with what it does."""
    net = Families(families=[family], num_classes=5, image_size=size)[index]
    images = torch.randn(2, 3, size, size)
    network = copy.deepcopy(net.build().eval())
    assert network(images).shape == (2, 5)
    assert net.graph.input_shape == (3, size, size)
    assert call(net.build(light=True).eval(), dict(network.named_parameters()), images).equal(network(images))


def test_members_for_small_images_are_as_they_were() -> None:
    for family in ALL:
        network = Families(families=[family])[0].build()
        assert not network._forward_pre_hooks


@given(seed=st.integers(0, 2**64 - 1), index=st.integers(0, 499), other=st.integers(0, 2**64 - 1))
@settings(max_examples=30, deadline=None)
def test_splits_share_nothing_and_networks_are_functions_of_their_number(seed: int, index: int, other: int) -> None:
    train, test = (Families(split, seed=seed, families=ALL, size=500) for split in ("train", "test"))
    assert train[index].settings == Families("train", seed=seed, families=ALL, size=501)[index].settings
    assert train[index].family == ALL[index % len(ALL)]
    assert train[index - 500].settings == train[index].settings
    others = Families("train", seed=other, families=ALL, size=500)
    tested = json.dumps(test[index].settings)
    near = range(index % len(ALL), 500, len(ALL))
    assert tested not in [json.dumps(kind[number].settings) for kind in (train, others) for number in near]


def test_members_differ() -> None:
    for family in TRAINED:
        found = {json.dumps(net.settings) for net in Families(families=[family], size=40)}
        assert len(found) > 20


def test_graphs_of_equal_settings_are_kept_once() -> None:
    net = Families(size=1)[0]
    before = traced.cache_info().misses
    assert Families(size=2)[0].graph is net.graph
    assert traced.cache_info().misses <= before + 1
    assert Families(size=1).num_nodes(0) == len(net.graph)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "val"}, "split is 'val'; train, test are accepted"),
        ({"size": 0}, "size is 0; an integer from 1 on is accepted"),
        ({"size": 1 << 70}, "size is .*; an integer from 1 on is accepted"),
        ({"seed": -1}, "seed is -1"),
        ({"num_classes": 0}, "num_classes is 0; an integer from 1 on"),
        ({"image_size": 28}, "image_size is 28; an integer from 32 on"),
        ({"families": ["resnet", "lenet"]}, "families has 'lenet'; a list of resnet, "),
        ({"families": "resnet"}, "families is 'resnet'; a list of"),
        ({"families": 5}, "families is 5; a list of"),
        ({"families": None}, "families is None; a list of"),
        ({"families": [["resnet"]]}, r"families has \['resnet'\]; a list of"),
        ({"families": []}, r"families is \[\]; a list of"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Families(**arguments)


def test_an_index_beyond_the_end() -> None:
    with pytest.raises(NetworkIndexError, match="network 2 of the split train was asked for, which has 2"):
        Families(size=2)[2]
    with pytest.raises(IndexError):
        Families(size=2)[-3]


@pytest.mark.parametrize("classes", [0, -1, 1.5, "10", True])
@pytest.mark.parametrize("item", [Families(size=1)[0], DeepNets1M("test", size=1)[0], *DeepNets1M("predefined")])
def test_networks_of_no_classes(item: Net, classes: Any) -> None:
    with pytest.raises(ConfigError, match="num_classes"):
        item.build(num_classes=classes)
