"""Meta-batches of networks, and what is made ahead."""

from __future__ import annotations

import pytest
from helpers.tiny import tiny_config

from ghnfast.errors import TrainingError
from ghnfast.families import TRAINED, FamilyNet
from ghnfast.training import ImageData
from ghnfast.training.networks import MetaBatches, ahead
from ghnfast.training.run import make_dataset


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
