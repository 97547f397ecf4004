"""What a GHN costs in training: a step beside the same networks' own forward and backward passes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from sizes import size
from turns import versus

from ghnfast.training import Trainer, load_data, make_config
from ghnfast.training.data import Batches
from ghnfast.training.networks import MetaBatches, ahead, main_logits, placed
from ghnfast.training.run import make_dataset, make_ghn

# Networks as in the default GHN's first run. With the published number of images, and with that run's: the fewer they
# are, the more a GHN costs beside them.
SETTINGS = {
    "data": "mnist5k",
    "num_ch": size((16, 64), (16, 16)),
    "fc_dim": size((64, 256), (64, 64)),
    "batch_size": 64,
    "meta_batch": size(4, 1),
    "steps": 1000,
}
STEPS = size(4, 1)  # of one round
ROUNDS = size(7, 1)


@pytest.mark.parametrize("batch_size", [64, 20])
def test_step(benchmark: Any, batch_size: int) -> None:
    """Ours: sampling, prediction, networks, backward and update. Plain: the networks with parameters of their own."""
    config = make_config({**SETTINGS, "batch_size": size(batch_size, 4)})
    data = load_data(config.data)
    images = Batches(data.train, config.batch_size, config.seed)
    dataset = make_dataset(config, data)
    networks = MetaBatches(dataset, config.meta_batch, config.max_nodes, config.seed)
    trainer = Trainer(make_ghn(config, data), config, config.steps)
    rounds = iter(range(ROUNDS + 1))
    turns = iter(range(ROUNDS + 1))

    def ours() -> None:
        # Streams of its own: what is made ahead is made within the round, and not while the other one is timed.
        start = next(rounds) * STEPS
        streams = (ahead(source, start, start + STEPS) for source in (images, networks))
        for (pixels, labels), batch in zip(*streams, strict=True):
            trainer.train_step(pixels, labels, batch)

    def plain() -> None:
        pass_of(next(turns))

    def pass_of(turn: int) -> None:
        for step in range(turn * STEPS, (turn + 1) * STEPS):
            pixels, labels = images[step]
            for network in own[step]:
                F.cross_entropy(main_logits(network(placed(pixels, "cpu"))), labels).backward()

    own = [[dataset[index].build().train() for index in networks.chosen(step)] for step in range(STEPS * (ROUNDS + 1))]
    for turn in range(ROUNDS + 1):
        pass_of(turn)  # convolutions of new shapes are compiled: whoever meets them first would pay for both
    medians = versus(benchmark, ours, {"plain": plain}, ROUNDS)
    benchmark.extra_info.update(
        meta_batch=config.meta_batch,
        batch_size=config.batch_size,
        steps=STEPS,
        ratio=medians["main"] / medians["plain"],
    )


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
