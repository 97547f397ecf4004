"""Trains a GHN with Lightning: a LightningModule that has a GHN inside.

    python examples/lightning_module.py --steps 1000 --out ghn.safetensors
    python examples/lightning_module.py --steps 1000 --devices 2 --accelerator cpu --out ghn.safetensors

The networks of a step are shared between the processes; each sees images of its own. Needs lightning, torchvision
and `ghnfast[training]`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import ghnfast.vision  # before lightning, which imports torchvision where it is there

import lightning  # isort: skip
from ghnfast.families import Families
from ghnfast.training import load_data, run_network


class Digits(Dataset[tuple[Tensor, Tensor]]):
    def __init__(self) -> None:
        self.images = load_data("mnist5k").train

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, label = self.images.batch([index], seed=0)
        return image[0], label[0]


class TrainGHN(lightning.LightningModule):
    """A GHN and the networks that it is trained on.

    Args:
        networks: small members of well-known families.
        count: networks of a step, of each process.
    """

    def __init__(self, ghn: ghnfast.GHN, networks: Families, count: int) -> None:
        super().__init__()
        self.ghn, self.networks, self.count = ghn, networks, count

    def training_step(self, batch: tuple[Tensor, Tensor], number: int) -> Tensor:
        images, labels = batch
        first = (self.global_step * self.trainer.world_size + self.global_rank) * self.count
        items = [self.networks[(first + place) % len(self.networks)] for place in range(self.count)]
        losses = []
        for item, parameters in zip(items, self.ghn([item.graph for item in items]), strict=True):
            outputs = run_network(item.build(light=True).train(), item.graph, parameters, images)
            losses.append(F.cross_entropy(outputs, labels))
        loss = torch.stack(losses).mean()
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.ghn.parameters(), 1e-3)


def main(arguments: Sequence[str] | None = None, **settings: Any) -> TrainGHN:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--networks", type=int, default=2, help="of a step, of each process")
    parser.add_argument("--images", type=int, default=32, help="of a step, of each process")
    parser.add_argument("--hid", type=int, default=32, help="the width of node states")
    parser.add_argument("--accelerator", default="auto", help="cpu, gpu")
    parser.add_argument("--devices", type=int, default=1, help="processes")
    parser.add_argument("--out", default="ghn.safetensors")
    given = parser.parse_args(arguments)
    torch.manual_seed(0)
    networks = Families("train")
    module = TrainGHN(ghnfast.GHN(hid=given.hid, num_classes=10), networks, given.networks)
    trainer = lightning.Trainer(
        max_steps=given.steps,
        accelerator=given.accelerator,
        devices=given.devices,
        # A step's networks need not use every weight of the GHN.
        strategy="ddp_find_unused_parameters_true" if given.devices > 1 else "auto",
        gradient_clip_val=5.0,
        **settings,
    )
    trainer.fit(module, DataLoader(Digits(), batch_size=given.images, shuffle=True, drop_last=True))
    if trainer.is_global_zero:
        module.ghn.save(given.out)
    return module


if __name__ == "__main__":
    main()
