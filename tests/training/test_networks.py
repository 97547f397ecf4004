"""Meta-batches of networks, and what is made ahead."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from helpers.tiny import tiny_config
from torch import Tensor, nn

from ghnfast import trace
from ghnfast.errors import TrainingError
from ghnfast.families import HELD_OUT, TRAINED, Families, FamilyNet
from ghnfast.prediction.slots import slots_of
from ghnfast.randomness import drawing_from
from ghnfast.training import ImageData
from ghnfast.training.networks import TOKEN_STD, MetaBatches, ahead, call, for_training, run_network, with_tokens
from ghnfast.training.run import make_dataset, make_ghn


def test_meta_batches_stay_within_their_nodes(few_images: ImageData) -> None:
    dataset = make_dataset(tiny_config(), few_images)
    whole = MetaBatches(dataset, 8, 100_000, 0)[5]
    assert whole.total == 8
    some = MetaBatches(dataset, 8, 700, 0)[5]
    assert sum(map(len, some.graphs)) <= 700
    assert [len(graph) for graph in some.graphs] == [len(graph) for graph in whole.graphs[: some.total]]
    one = MetaBatches(dataset, 8, 1, 0)[5]
    assert one.total == 1
    halves = [MetaBatches(dataset, 8, 100_000, 0, rank, 2)[5] for rank in range(2)]
    assert sorted(place for half in halves for place in half.places) == list(range(8))


def test_errors_in_what_is_made_ahead_are_raised() -> None:
    class Source:
        def __getitem__(self, step: int) -> int:
            if step == 3:
                raise KeyError("three")
            return step * step

    stream = ahead(Source(), 0, 10)
    assert [next(stream) for _ in range(3)] == [0, 1, 4]
    with pytest.raises(KeyError, match="three"):
        next(stream)


@pytest.mark.parametrize(
    ("nets", "shares"),
    [
        ("deepnets", {"deepnets": 1.0}),
        ("families", {"families": 1.0}),
        ("deepnets,families", {"deepnets": 0.5, "families": 0.5}),
        ("families: 3, deepnets:1", {"families": 0.75, "deepnets": 0.25}),
        ("vit", {"vit": 1.0}),
        ("deepnets:2,families:1,vit:1", {"deepnets": 0.5, "families": 0.25, "vit": 0.25}),
    ],
)
def test_kinds_of_networks(few_images: ImageData, nets: str, shares: dict[str, float]) -> None:
    config = tiny_config(nets=nets, networks=1000, members=300)
    assert config.weights_of_nets() == shares
    dataset = make_dataset(config, few_images)
    found = [dataset[index] for index in range(300)]
    kinds = [type(net).__name__ for net in found]
    assert abs(kinds.count("DeepNet") / 300 - shares.get("deepnets", 0)) < 0.02
    vits = [net for net in found if isinstance(net, FamilyNet) and net.family == "vit"]
    assert abs(len(vits) / 300 - shares.get("vit", 0) - shares.get("families", 0) / len(TRAINED)) < 0.03
    if set(shares) == {"deepnets", "families"}:
        assert len(dataset) == 1000
        stretch = "".join(kind[0] for kind in kinds)
        assert "D" * 8 not in stretch  # no long stretch of one kind
        members = {net.index for net in map(dataset.__getitem__, range(1000)) if type(net).__name__ == "FamilyNet"}
        assert len(members) > 200  # of 300


@pytest.mark.parametrize(
    "nets",
    [
        "",
        "deepnet",
        "regnet",
        "vit,vit",
        "deepnets:0",
        "deepnets:-1",
        "deepnets:nan",
        "deepnets:x",
        "families,families",
        "families:inf",
    ],
)
def test_no_kind_of_networks(nets: str) -> None:
    with pytest.raises(
        TrainingError, match=r"nets is .*; deepnets, families, resnet, .*, mixer, or several with their weights"
    ):
        tiny_config(nets=nets)


@pytest.mark.parametrize("family", TRAINED + HELD_OUT)
def test_networks_are_trained_as_they_are_predicted(family: str, few_images: ImageData) -> None:
    """What is not predicted is the network's own in training, too, whole parameters and parts of them."""
    net = Families(families=[family])[1]
    ghn = make_ghn(tiny_config(), few_images).eval()
    network, images = net.build().eval(), torch.randn(2, *net.input_shape)
    (predicted,) = ghn([net.graph])
    expected = ghn.predict(copy.deepcopy(network), graph=net.graph)(images)
    found = run_network(network, net.graph, predicted, images)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    # Nor is it zero without memory where the network's own is not.
    light = net.build(light=True)
    given = {**dict(light.named_parameters()), **with_tokens(light, net.graph, predicted)}
    rows = slots_of(net.graph).tokens
    for name, own in network.named_parameters():
        if name in rows:
            assert given[name].narrow(-2, 0, rows[name]).any() == own.narrow(-2, 0, rows[name]).any()
        elif name not in predicted:
            assert given[name].any() == own.any()
    assert bool(rows) == (family == "vit")


@pytest.mark.parametrize("shape", [(1, 17, 24), (17, 24), (1, 18, 24)])
def test_rows_for_tokens_are_as_they_are_initialized(shape: tuple[int, ...], few_images: ImageData) -> None:
    class Encoded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches = nn.Conv2d(3, 24, 8, 8)
            self.token = nn.Parameter(torch.zeros(1, shape[-2] - 16, 24))
            self.positions = nn.Parameter(torch.full(shape, 0.5))
            self.norm, self.last = nn.LayerNorm(24), nn.Linear(24, 10)

        def forward(self, x: Tensor) -> Tensor:
            rows = torch.cat([self.token.expand(len(x), -1, -1), self.patches(x).flatten(2).transpose(1, 2)], 1)
            result: Tensor = self.last(self.norm(rows + self.positions).mean(1))
            return result

    network, count = Encoded(), shape[-2] - 16
    graph = trace(network, input_shape=(3, 32, 32))
    (predicted,) = make_ghn(tiny_config(), few_images)([graph])
    own = with_tokens(network, graph, predicted)["positions"]
    assert own.shape == shape
    assert own.narrow(-2, 0, count).eq(0.5).all()
    assert own.narrow(-2, count, 16).equal(predicted["positions"].narrow(-2, count, 16))
    own.sum().backward()  # through what is predicted

    drawn = []
    for seed in (0, 0, 1):
        with drawing_from(seed):
            drawn.append(with_tokens(network.to("meta"), graph, predicted)["positions"].narrow(-2, 0, count))
    assert drawn[0].equal(drawn[1])
    assert not drawn[0].equal(drawn[2])
    assert 0.5 * TOKEN_STD < drawn[0].std() < 1.5 * TOKEN_STD


def tied() -> nn.Module:
    network = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
    network[2].weight = network[0].weight
    return network


def shared() -> nn.Module:
    layer = nn.Linear(6, 6)
    return nn.Sequential(layer, nn.ReLU(), layer, nn.LayerNorm(6, bias=False))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.LSTM(6, 6, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.layer(x[None])[0][0]
        return found


@pytest.mark.parametrize("kept", [0, 1])
@pytest.mark.parametrize("make", [tied, shared, Recurrent, lambda: nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6))])
def test_called_networks_compute_what_functional_calls_do_and_stay_as_they_are(
    make: Callable[[], nn.Module], kept: int
) -> None:
    network, x = make(), torch.randn(3, 6)
    own = dict(network.named_parameters(remove_duplicate=False))
    given = {name: torch.randn_like(value).requires_grad_() for name, value in network.named_parameters()}
    given = dict(list(given.items())[kept:])
    # Torch leaves the values in modules that have two names.
    wanted = torch.func.functional_call(copy.deepcopy(network), given, (x,))
    found = call(network, given, x)
    assert torch.equal(found, wanted)
    assert all(
        map(torch.equal, *(torch.autograd.grad(each.square().sum(), list(given.values())) for each in (found, wanted)))
    )
    after = dict(network.named_parameters(remove_duplicate=False))
    assert after.keys() == own.keys()
    assert all(after[name] is own[name] for name in own)


def test_tied_parameters_are_found_by_each_of_their_names() -> None:
    network, x, weight = tied(), torch.randn(3, 6), torch.randn(6, 6)
    assert torch.equal(call(network, {"2.weight": weight}, x), call(network, {"0.weight": weight}, x))


def test_called_networks_stay_as_they_are_after_an_error() -> None:
    network = nn.Sequential(nn.Linear(6, 6))
    own = list(network.parameters())
    with pytest.raises(RuntimeError):
        call(network, {"0.weight": torch.zeros(2, 5)}, torch.randn(3, 6))
    assert all(found is wanted for found, wanted in zip(network.parameters(), own, strict=True))


@pytest.mark.parametrize("asleep", [(), ("",), ("1",), ("", "0", "1")])
def test_networks_are_set_to_training(asleep: tuple[str, ...]) -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    for name in asleep:
        network.get_submodule(name).training = False
    assert for_training(network) is network
    assert all(module.training for module in network.modules())
