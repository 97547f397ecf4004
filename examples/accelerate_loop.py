"""Trains a GHN in a loop of one's own with Hugging Face Accelerate: on a CPU, on GPUs, in one process or in many.

    python examples/accelerate_loop.py --steps 1000 --out ghn.safetensors
    torchrun --nproc-per-node 2 examples/accelerate_loop.py --cpu --steps 1000 --out ghn.safetensors

The networks of a step are shared between the processes; all see the same images. `ghnfast train` does more: it goes on
after an interruption, skips steps that have no finite loss, and starts from identities. Needs accelerate, torchvision
and `ghnfast[training]`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from accelerate import Accelerator, DistributedDataParallelKwargs

import ghnfast
from ghnfast.families import Families
from ghnfast.training import load_data, run_network


def main(arguments: Sequence[str] | None = None) -> list[float]:
    """The losses of all steps, each a mean over the networks of all processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--networks", type=int, default=4, help="of a step, of all processes")
    parser.add_argument("--images", type=int, default=32, help="of a step")
    parser.add_argument("--hid", type=int, default=32, help="the width of node states")
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--out", default="ghn.safetensors")
    given = parser.parse_args(arguments)
    # A step's networks need not use every weight of the GHN.
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    accelerator = Accelerator(cpu=given.cpu, kwargs_handlers=[unused])
    data = load_data("mnist5k")
    networks = Families("train")
    torch.manual_seed(0)  # the same weights in every process
    ghn = ghnfast.GHN(hid=given.hid, num_classes=data.num_classes)
    optimizer = torch.optim.AdamW(ghn.parameters(), 1e-3)
    ghn, optimizer = accelerator.prepare(ghn.train(), optimizer)
    losses = []
    for step in range(given.steps):
        numbers = range(step * given.networks, (step + 1) * given.networks)
        mine = [networks[number % len(networks)] for number in numbers][
            accelerator.process_index :: accelerator.num_processes
        ]
        chosen = torch.randint(len(data.train), (given.images,), generator=torch.Generator().manual_seed(step))
        images, labels = (part.to(accelerator.device) for part in data.train.batch(chosen.tolist(), seed=step))
        own = []
        for item, parameters in zip(mine, ghn([item.graph for item in mine]), strict=True):
            outputs = run_network(item.build(light=True).train(), item.graph, parameters, images)
            own.append(F.cross_entropy(outputs, labels))
        loss = torch.stack(own).mean()
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(ghn.parameters(), 5.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(accelerator.gather(loss.detach()[None]).mean().item())
        accelerator.print(f"step {step + 1}: loss {losses[-1]:.3f}")
    if accelerator.is_main_process:
        accelerator.unwrap_model(ghn).save(given.out)
    accelerator.end_training()
    return losses


if __name__ == "__main__":
    main()
