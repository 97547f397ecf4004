"""What a forward writes into tensors that it computes with for real comes from where it was made, however it writes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from helpers.models import Net
from torch import Tensor, nn

import ghnfast

STEPS = torch.tensor([3, 5])
# Ways to write the columns of a table, which is all that is left of what it was made of.
WAYS: dict[str, Callable[[Tensor, Tensor], object]] = {
    "slices": lambda table, sines: table.__setitem__((slice(None), slice(0, None, 2)), sines),
    "whole": lambda table, sines: table.__setitem__(slice(None), torch.cat([sines, sines], 1)),
    "view": lambda table, sines: table.view(-1).__setitem__(slice(0, sines.numel()), sines.flatten()),
    "copy_ of a view": lambda table, sines: table[:, :4].copy_(sines),
    "data": lambda table, sines: table.data.__setitem__((slice(None), slice(4, 8)), sines),
    "out": lambda table, sines: torch.sin(sines, out=table[:, :4]),
    "rows": lambda table, sines: [table[row, :4].add_(sines[row]) for row in range(len(table))],
    "scatter_": lambda table, sines: table.scatter_(1, torch.arange(4).expand(len(table), 4), sines),
    "index_put_": lambda table, sines: table.index_put_((torch.arange(len(table)),), torch.cat([sines, sines], 1)),
    "indices": lambda table, sines: table.__setitem__((torch.arange(len(table)), 0), sines[:, 0]),
}


def network(write: Callable[[Tensor, Tensor], object] | None) -> Net:
    """A layer of images, and one of a table of the sines of integers."""

    def forward(m: Net, image: Tensor, steps: Tensor) -> Tensor:
        sines = (steps[:, None].float() * torch.arange(1, 5)).sin()
        table = torch.cat([sines, sines], 1) if write is None else torch.zeros(len(steps), 8)
        if write is not None:
            write(table, sines)
        return m.a(image) + m.b(table)[:, :, None, None]

    return Net(forward, a=nn.Conv2d(3, 8, 3), b=nn.Linear(8, 8))


@pytest.mark.parametrize("way", WAYS)
def test_tables_made_of_integers(way: str) -> None:
    inputs = torch.randn(2, 3, 8, 8), STEPS
    wanted = ghnfast.trace(network(None), example_inputs=inputs)
    network(WAYS[way])(*inputs)
    found = ghnfast.trace(network(WAYS[way]), example_inputs=inputs)
    assert (found.ops, found.edges.tolist()) == (wanted.ops, wanted.edges.tolist())
    assert not found.skipped


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("buffer", [True, False])
def test_tables_made_of_buffers(way: str, buffer: bool) -> None:
    """A layer of a buffer reads the input, in the words of the graph; one of a constant reads nothing."""

    def forward(m: Net, x: Tensor) -> Tensor:
        numbers = m.numbers if buffer else torch.ones(2, 4)
        table = torch.zeros(2, 8)
        WAYS[way](table, (numbers * 3).sin())
        return m.a(x) + m.b(table)

    model = Net(forward, a=nn.Linear(6, 8), b=nn.Linear(8, 8))
    model.register_buffer("numbers", torch.ones(2, 4))
    found = ghnfast.trace(model, example_inputs=(torch.randn(2, 6),))
    assert ("b.weight" in found.skipped) == (not buffer)


def test_what_is_written_elsewhere_does_not_reach_a_tensor() -> None:
    def forward(m: Net, x: Tensor, steps: Tensor) -> Tensor:
        table = torch.zeros(4, 2, 8)
        table[0] = steps[:, None].float()
        return m.a(x) + m.b(table[0]) + m.c(table[1])

    model = Net(forward, a=nn.Linear(6, 8), b=nn.Linear(8, 8), c=nn.Linear(8, 8))
    found = ghnfast.trace(model, example_inputs=(torch.randn(2, 6), STEPS))
    assert sorted(found.skipped) == ["c.bias", "c.weight"]


def test_a_shifted_sentence() -> None:
    """As the decoders of sequence-to-sequence models get it."""

    def forward(m: Net, ids: Tensor) -> Tensor:
        shifted = ids.new_zeros(ids.shape)
        shifted[:, 1:] = ids[:, :-1].clone()
        shifted[:, 0] = 2
        shifted.masked_fill_(shifted == 7, 1)
        return m.b(m.a(shifted))

    model = Net(forward, a=nn.Embedding(9, 8), b=nn.Linear(8, 8))
    rolled = Net(lambda m, ids: m.b(m.a(torch.roll(ids, 1))), a=nn.Embedding(9, 8), b=nn.Linear(8, 8))
    ids = (torch.tensor([[1, 7, 3]]),)
    found, wanted = ghnfast.trace(model, example_inputs=ids), ghnfast.trace(rolled, example_inputs=ids)
    assert (found.ops, found.skipped) == (wanted.ops, wanted.skipped)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_images_of_bytes_are_images(dtype: torch.dtype) -> None:
    def forward(m: Net, x: Tensor) -> Tensor:
        x = nn.functional.avg_pool2d(x.float() / 255, 2)
        return x + m.b(torch.relu(m.a(x)))

    model = Net(forward, a=nn.Conv2d(3, 8, 3, padding=1), b=nn.Conv2d(8, 3, 3, padding=1))
    found = ghnfast.trace(model, example_inputs=(torch.zeros(2, 3, 8, 8, dtype=dtype),))
    assert found.ops == ["input", "avg_pool", "conv", "bias", "conv", "bias", "sum"]
    reads = Net(lambda m, x: m.a(x.float() / 255 if x.max() > 1 else x.float()), a=nn.Conv2d(3, 8, 3))
    found = ghnfast.trace(reads, example_inputs=(torch.full((2, 3, 8, 8), 3, dtype=dtype),))
    assert found.ops == ["input", "conv", "bias"]
