"""Meta-batches of networks, and what is made ahead."""

from __future__ import annotations

import pytest
from helpers.tiny import tiny_config

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
