"""What a GHN costs in training: a step beside the same networks' own forward and backward passes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from turns import versus

from ghnfast.training import Trainer, load_data, make_config
from ghnfast.training.data import Batches
from ghnfast.training.networks import MetaBatches, ahead, main_logits
from ghnfast.training.trainer import make_dataset, make_ghn

# Of the default GHN's run; the published settings have larger networks and batches, beside which a GHN costs less.
SETTINGS = {
    "data": "mnist5k",
    "num_ch": (16, 32),
    "fc_dim": (64, 128),
    "batch_size": 32,
    "meta_batch": 4,
    "steps": 1000,
}
STEPS = 4  # of one round
ROUNDS = 5


def test_step(benchmark: Any) -> None:
    """Ours: sampling, prediction, networks, backward and update. Plain: the networks with parameters of their own."""
    config = make_config(SETTINGS)
    data = load_data(config.data)
    images = Batches(data.train, config.batch_size, config.seed)
    dataset = make_dataset(config, data)
    networks = MetaBatches(dataset, config.meta_batch, config.max_nodes, config.seed)
    trainer = Trainer(make_ghn(config, data), config, config.steps)
    streams = zip(ahead(images, 0, config.steps), ahead(networks, 0, config.steps), strict=True)

    def ours() -> None:
        for (pixels, labels), batch in itertools.islice(streams, STEPS):
            trainer.train_step(pixels, labels, batch)

    own = networks_with_parameters(networks, dataset, STEPS * (ROUNDS + 1))
    numbers = itertools.count()
    turns = [0]

    def plain() -> None:
        for batch in made[turns[0]]:
            pixels, labels = images[next(numbers)]
            for network in batch:
                F.cross_entropy(main_logits(network(pixels)), labels).backward()
        turns[0] += 1

    made = [[next(own) for _ in range(STEPS)] for _ in range(ROUNDS + 1)]
    medians = versus(benchmark, ours, {"plain": plain}, ROUNDS)
    benchmark.extra_info.update(
        meta_batch=config.meta_batch,
        batch_size=config.batch_size,
        steps=STEPS,
        ratio=medians["main"] / medians["plain"],
    )


def networks_with_parameters(networks: MetaBatches, dataset: Any, steps: int) -> Iterator[list[torch.nn.Module]]:
    """The networks of steps, in the order in which the trainer meets them."""
    for step in range(steps):
        yield [dataset[index].build().train() for index in networks.chosen(step)]


def test_reference_step(benchmark: Any) -> None:
    """The published trainer, where PYTHONPATH has it, on networks and graphs that it is given."""
    pytest.importorskip("ppuda", reason="the published implementation (ppuda) is not on PYTHONPATH")
    from ppuda.deepnets1m.graph import Graph
    from ppuda.deepnets1m.graph import GraphBatch as ReferenceBatch
    from ppuda.deepnets1m.net import Network as ReferenceNetwork
    from ppuda.ghn.nn import GHN as ReferenceGHN
    from ppuda.utils import Trainer as ReferenceTrainer
    from test_reference import quietly

    config = make_config(SETTINGS)
    data = load_data(config.data)
    images = Batches(data.train, config.batch_size, config.seed)
    dataset = make_dataset(config, data)
    networks = MetaBatches(dataset, config.meta_batch, config.max_nodes, config.seed)
    ghn = make_ghn(config, data)
    reference = ReferenceGHN(**ghn.config, debug_level=0)
    optimizer = torch.optim.Adam(reference.parameters(), 1e-3)
    trainer = quietly(lambda: ReferenceTrainer(optimizer, 10, False, 1000, device="cpu"))

    def reference_graphs(settings: Any) -> Any:
        return ReferenceBatch([Graph(ReferenceNetwork(**each), ve_cutoff=50) for each in settings])

    def update(light: Any, number: int, graphs: Any) -> None:
        trainer.update(light, *images[number], ghn=reference, graphs=graphs)

    prepared = []
    for step in range(STEPS):
        items = [dataset[index] for index in networks.chosen(step)]
        settings = [{"num_classes": 10, "is_imagenet_input": False, **published_settings(item)} for item in items]
        graphs = quietly(reference_graphs, settings)
        own = [item.build().train() for item in items]
        prepared.append((settings, graphs, own))

    def theirs() -> None:
        for number, (settings, graphs, _) in enumerate(prepared):
            light = [ReferenceNetwork(light=True, **each) for each in settings]
            quietly(update, light, number, graphs)

    def plain() -> None:
        for number, (_, _, own) in enumerate(prepared):
            pixels, labels = images[number]
            for network in own:
                F.cross_entropy(main_logits(network(pixels)), labels).backward()

    medians = versus(benchmark, theirs, {"plain": plain}, 3)
    benchmark.extra_info.update(steps=STEPS, ratio=medians["main"] / medians["plain"])


def published_settings(item: Any) -> dict[str, Any]:
    from ppuda.deepnets1m.genotypes import Genotype

    cells = item.genotype.as_dict()
    return {"genotype": Genotype(**{name: list(value) for name, value in cells.items()}), **item.args}
