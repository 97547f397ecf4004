"""csrc/deepnets and csrc/core/random.hpp: sampling, describing and counting, without torch."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest

SPLITS = range(8)  # train, val, test, search, wide, deep, dense, bnfree
NONE, SKIP, CONV_1X1, MSA, CSE = 0, 3, 8, 13, 14


def ranges(core: ModuleType) -> Any:
    return core.TrainingRanges(16, 128, 64, 512, False)


# Known answers of the authors' library (Random123, kat_vectors).
KNOWN = [
    ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_philox(core: ModuleType, counter: list[int], key: list[int], expected: list[int]) -> None:
    assert core.philox(counter, key) == expected


@pytest.mark.parametrize("split", SPLITS)
def test_sampled_networks_have_graphs(core: ModuleType, split: int) -> None:
    for index in (0, 1, 2, 10**6, 2**40):
        settings, small, large = core.sample_network(split, 2**63, index, ranges(core), bool(index % 2))
        graph = settings.graph()
        assert graph is not None
        primitives, edges, level_offsets, shapes, weights, norm_biases, parameter_shapes, skipped, weight, bias = graph
        nodes = len(primitives)
        assert nodes == len(shapes) == len(weights) == len(norm_biases) == level_offsets[-1] == bias + 1 == weight + 2
        assert (edges[:, 0] < edges[:, 1]).all()
        assert np.array_equal(np.argsort(edges[:, 1], kind="stable"), np.arange(len(edges)))
        parameters = dict(settings.parameters())
        assert set(parameters) == set(parameter_shapes) | set(skipped)
        assert settings.elements() == sum(int(np.prod(shape)) for shape in parameters.values())
        assert (np.diff(settings.node_cells()[edges], axis=1) >= 0).all()
        assert small > 0
        assert large > 0


def test_the_order_of_calls_does_not_matter(core: ModuleType) -> None:
    def lists(index: int) -> Any:
        return core.sample_network(0, 1, index, ranges(core), False)[0].cells_as_lists()

    forwards = [lists(index) for index in range(30)]
    assert [lists(index) for index in reversed(range(30))] == forwards[::-1]
    assert len({str(found) for found in forwards}) == 30


def test_statistics(core: ModuleType) -> None:
    whole = core.statistics(0, 0, 0, 200, ranges(core), 2)
    parts = [core.statistics(0, 0, begin, begin + 100, ranges(core), 1) for begin in (0, 100)]
    assert whole["graphs"] == 200
    assert list(whole["primitives"]) == [a + b for a, b in zip(*(part["primitives"] for part in parts), strict=True)]
    assert whole["without_norm"] == sum(part["without_norm"] for part in parts)
    assert whole["nodes"] == (min(part["nodes"][0] for part in parts), max(part["nodes"][1] for part in parts))


def test_cells_without_output(core: ModuleType) -> None:
    settings = core.NetworkSettings()
    nothing = [(NONE, 0), (NONE, 1)]
    settings.set_cells(nothing, [2], nothing, [2])
    assert settings.graph() is None
    assert settings.node_cells().size == 0


@pytest.mark.parametrize(
    ("edges", "concat", "message"),
    [
        ([(15, 0), (SKIP, 1)], [2], "there is no operation 15"),
        ([(-1, 0), (SKIP, 1)], [2], "there is no operation -1"),
        ([(SKIP, 0)], [2], "two edges"),
        ([(SKIP, 0), (SKIP, 2)], [2], "a state that is not there"),
        ([(SKIP, -1), (SKIP, 0)], [2], "a state that is not there"),
        ([(SKIP, 0), (SKIP, 1)], [3], "a state that is not there"),
        ([(SKIP, 0), (SKIP, 1)], [1], "a state that is not there"),
    ],
)
def test_what_is_not_there_is_refused(
    core: ModuleType, edges: list[tuple[int, int]], concat: list[int], message: str
) -> None:
    settings = core.NetworkSettings()
    with pytest.raises(ValueError, match=message):  # noqa: PT012 - some are refused when set, some when used
        settings.set_cells(edges, concat, edges, concat)
        settings.graph()


@pytest.mark.parametrize(
    ("operation", "channels", "message"), [(MSA, 4, "8 channels"), (CSE, 1, "2 channels"), (SKIP, 15, "even number")]
)
def test_too_few_channels(core: ModuleType, operation: int, channels: int, message: str) -> None:
    settings = core.NetworkSettings()
    cell = [(operation, 0), (CONV_1X1, 1)]
    settings.set_cells(cell, [2], cell, [2])
    settings.channels, settings.channel_factor, settings.preprocessed = channels, 1, False
    with pytest.raises(ValueError, match=message):
        settings.graph()


def test_bad_ranges(core: ModuleType) -> None:
    with pytest.raises(ValueError, match="there is no split 8"):
        core.sample_network(8, 0, 0, ranges(core), False)
    with pytest.raises(ValueError, match="is empty"):
        core.statistics(0, 0, 5, 5, ranges(core), 1)
