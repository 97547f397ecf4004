"""Embeds networks with the workers of a DataLoader, a share of them on each machine, into one file a machine.

    python examples/embed_many.py --split train --size 1000000 --machines 4 --rank 0 --out vectors-0

Workers make graphs (here of DeepNets-1M; a data set of your own returns `ghnfast.trace(model)`), the main process
embeds them in batches.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from ghnfast import ArchGraph
from ghnfast.deepnets import DeepNets1M
from ghnfast.properties import ArchitectureEmbedding


class Graphs(Dataset[tuple[int, ArchGraph]]):
    """The graphs of this machine's share of a split, with their numbers."""

    def __init__(self, split: str, size: int | None, rank: int, machines: int) -> None:
        self.networks = DeepNets1M(split, size=size)
        self.indices = range(rank, len(self.networks), machines)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, at: int) -> tuple[int, ArchGraph]:
        index = self.indices[at]
        return index, self.networks[index].graph


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", default="search")
    parser.add_argument("--size", type=int)
    parser.add_argument("--machines", type=int, default=1)
    parser.add_argument("--rank", type=int, default=0, help="of this machine, from 0")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", required=True, help="the .npz file")
    given = parser.parse_args(arguments)
    graphs = Graphs(given.split, given.size, given.rank, given.machines)
    loader = DataLoader(graphs, batch_size=64, num_workers=given.workers, collate_fn=list, worker_init_fn=one_thread)
    embedding = ArchitectureEmbedding().fit()
    indices: list[int] = []
    vectors = []
    for batch in loader:
        numbers, found = zip(*batch, strict=True)
        indices += numbers
        vectors.append(embedding.transform(found).astype(np.float32))
    np.savez(given.out, indices=np.array(indices), vectors=np.concatenate(vectors))
    print(f"{len(indices):,} networks")


def one_thread(worker: int) -> None:
    torch.set_num_threads(1)


if __name__ == "__main__":
    main()
