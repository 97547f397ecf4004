"""DeepNets-1M as a data set: sampled, from files, in batches, in workers."""

from __future__ import annotations

import json
import pickle
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.golden_data import FOLDER
from helpers.graph_comparison import difference
from torch.utils.data import DataLoader

import ghnfast
from ghnfast import DatasetError
from ghnfast.deepnets import DeepNets1M, Genotype, Network, NodeBatchSampler
from ghnfast.deepnets.dataset import SIZES, SPLITS
from ghnfast.deepnets.generate import NAMES, PRIMITIVE_NAMES, file_rows

FILES = FOLDER / "deepnets1m"
# The published ranges (tests/golden/paper.json).
RANGES: dict[str, tuple[Any, ...]] = {  # cells, channels, nodes, millions of parameters
    "train": ((4, 18), (16, 128), (21, 827), (0.01, 3.1)),
    "val": ((4, 18), (32, 128), (33, 579), (2.5, 35)),
    "test": ((4, 18), (32, 128), (33, 579), (2.5, 35)),
    "wide": ((4, 18), (128, 1216), (33, 579), (39, 101)),
    "deep": ((10, 36), (32, 208), (74, 1017), (2.5, 15.3)),
    "dense": ((4, 18), (32, 240), (57, 993), (2.5, 8.8)),
    "bnfree": ((4, 18), (32, 336), (33, 503), (2.5, 7.7)),
}


@pytest.mark.parametrize("split", RANGES)
def test_splits_have_the_published_ranges(split: str) -> None:
    dataset = DeepNets1M(split)
    assert len(dataset) == SIZES[split]
    for index in range(0, len(dataset), max(1, len(dataset) // 60)):
        item = dataset[index]
        elements = item.settings.elements() / 1e6
        measured = item.args["n_cells"], item.args["C"], len(item.graph), elements
        for value, (least, most) in zip(measured, RANGES[split], strict=True):
            assert least <= value <= most, (index, measured)
        assert ("bn" in item.graph.ops) <= (split != "bnfree")


def test_an_index_is_a_network_in_any_order_and_process() -> None:
    dataset = DeepNets1M("train", seed=3)
    indices = [999_999, 0, 17, 512_000, 17]
    found = [dataset[index] for index in indices]
    again = {index: dataset[index] for index in sorted(indices)}
    for index, item in zip(indices, found, strict=True):
        assert (item.genotype, item.args) == (again[index].genotype, again[index].args)
        assert dataset.num_nodes(index) == len(item.graph)
    assert dataset[-1].genotype == dataset[999_999].genotype
    other = DeepNets1M("train", seed=4)
    assert [other[i].genotype for i in range(5)] != [dataset[i].genotype for i in range(5)]
    assert [DeepNets1M("val")[i].genotype for i in range(5)] != [DeepNets1M("test")[i].genotype for i in range(5)]


def test_networks_are_fixed_for_good() -> None:
    item = DeepNets1M("train")[0]
    assert item.args == FIRST_ARGS
    assert repr(item.genotype) == FIRST_GENOTYPE


FIRST_ARGS: dict[str, Any] = {
    "C": 16,
    "n_cells": 9,
    "ks": 5,
    "stem_pool": False,
    "stem_type": 1,
    "norm": "bnorm",
    "preproc": True,
    "C_mult": 1,
    "fc_layers": 2,
    "fc_dim": 192,
    "glob_avg": True,
}
FIRST_GENOTYPE = (
    "Genotype(normal=[('none', 0), ('none', 1), ('sep_conv_3x3', 0), ('conv_5x5', 1), ('dil_conv_3x3', 1)"
    ", ('cse', 2)], normal_concat=[3, 4], reduce=[('skip_connect', 1), ('max_pool_3x3', 0), ('max_pool_3x"
    "3', 0), ('avg_pool_3x3', 2), ('none', 3), ('avg_pool_3x3', 2)], reduce_concat=[3, 4])"
)


def heavy(genotype: Genotype) -> bool:
    return any(name in ("conv_5x5", "conv_7x7") for name, _ in (*genotype.normal, *genotype.reduce))


@pytest.mark.parametrize("large_images", [False, True])
def test_wider_networks_follow_the_rules_of_ghn3(large_images: bool) -> None:
    """Other widths by other thresholds than the published ones of GHN-2; everything else is the same network."""
    settings: dict[str, Any] = {"large_images": large_images, "num_ch": (32, 128), "size": 600}
    widths: dict[int, set[int]] = {}
    strides: set[int] = set()
    for item, other in zip(DeepNets1M(wider=True, **settings), DeepNets1M(**settings), strict=True):
        assert item.genotype == other.genotype
        assert item.genotype is not None
        changed = {name for name, value in item.args.items() if other.args.get(name) != value}
        assert changed <= {"C", "fc_dim", "imagenet_stride"}
        millions, cells = item.num_params["cifar10"] / 1e6, item.args["n_cells"]
        few = millions > 2 or not item.args["glob_avg"] or heavy(item.genotype) or cells > 14
        most = 1 if few else 4 if millions > 0.4 or cells > 10 else 5 if millions > 0.2 or cells > 8 else 7
        widths.setdefault(most, set()).add(item.args["C"])
        if item.args.get("imagenet_stride", 4) != 4:
            assert large_images
            assert most == 7
            assert item.args["stem_type"] == 0
            assert item.args["stem_pool"]
            if not strides:
                assert item.build().eval()(torch.zeros(1, 3, 224, 224))[0].shape == (1, 1000)
            strides.add(item.args["imagenet_stride"])
        assert item.args["fc_dim"] <= (512 if most == 7 and item.args["C"] <= 64 else 256)
    assert widths == {most: set(range(32, 32 + 16 * most, 16)) for most in (1, 4, 5, 7)}
    assert strides == ({2} if large_images else set())


def test_build() -> None:
    item = DeepNets1M("test")[3]
    network = item.build()
    assert isinstance(network, Network)
    assert sum(p.numel() for p in network.parameters()) == item.settings.elements()
    logits, auxiliary = network.eval()(torch.zeros(2, 3, 32, 32))
    assert logits.shape == (2, 10)
    assert auxiliary is None
    assert item.build(num_classes=4).eval()(torch.zeros(1, 3, 32, 32))[0].shape == (1, 4)


@pytest.mark.parametrize("split", ["train", "predefined"])
def test_light_networks_run_with_predicted_tensors(split: str) -> None:
    for item in DeepNets1M(split, size=2):
        network = item.build(light=True)
        assert all(parameter.is_meta for parameter in network.parameters())
        assert not any(buffer.is_meta for buffer in network.buffers())
        real = item.build()
        values = {name: value.detach().clone() for name, value in real.named_parameters()}
        images = torch.randn(2, 3, 32, 32)
        torch.manual_seed(0)
        theirs = real.train()(images)
        torch.manual_seed(0)
        ours = torch.func.functional_call(network.train(), values, (images,))
        first = (output[0] if isinstance(output, tuple) else output for output in (ours, theirs))
        torch.testing.assert_close(*first)


def test_predefined() -> None:
    dataset = DeepNets1M("predefined")
    assert len(dataset) == 2
    resnet, vit = dataset
    assert (resnet.genotype, vit.args["n_cells"]) == (None, 12)
    assert len(resnet.graph) == dataset.num_nodes(0)
    assert resnet.graph.ops.count("conv") == 54
    assert resnet.graph.parameter_shapes["conv1.weight"] == (64, 3, 3, 3)
    assert vit.graph.ops.count("msa") == 10  # cells 4 and 8 are reduction cells, which pool
    with pytest.raises(ValueError, match="has no genotype"):
        _ = resnet.settings


def test_a_ghn_predicts_items() -> None:
    items = [DeepNets1M("train")[index] for index in range(3)]
    networks = [item.build() for item in items]
    ghn = ghnfast.load("ghn2-mnist5k")
    ghn.predict(networks, graph=[item.graph for item in items])
    alone = [item.build() for item in items]
    for item, network, other in zip(items, networks, alone, strict=True):
        ghn.predict(other)
        for ours, theirs in zip(network.parameters(), other.parameters(), strict=True):
            if item.graph.skipped:
                continue
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


# Batches --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("world_size", [1, 3])
@pytest.mark.parametrize("shuffle", [False, True])
def test_batches_hold_every_network_once(world_size: int, shuffle: bool) -> None:
    dataset = DeepNets1M("train", size=100)
    seen: Counter[int] = Counter()
    for rank in range(world_size):
        sampler = NodeBatchSampler(dataset, 5, max_nodes=900, shuffle=shuffle, rank=rank, world_size=world_size)
        for batch in sampler:
            assert len(batch) <= 5
            assert len(batch) == 1 or sum(map(dataset.num_nodes, batch)) <= 900
            seen.update(batch)
    assert seen == Counter(range(100))


def test_epochs_have_orders_of_their_own() -> None:
    sampler = NodeBatchSampler(DeepNets1M("train", size=50), 4)
    first = list(sampler)
    assert list(sampler) == first
    sampler.set_epoch(1)
    assert list(sampler) != first


@pytest.mark.parametrize("root", [None, FILES])
def test_workers_give_what_the_process_itself_gives(root: Path | None) -> None:
    dataset = DeepNets1M("train", root, size=8)
    dataset[0].graph.edges  # noqa: B018 - a file that is open here must not be shared with the workers
    sampler = NodeBatchSampler(dataset, 3, shuffle=False)
    loader = DataLoader(dataset, batch_sampler=sampler, collate_fn=list, num_workers=2)
    items = [item for batch in loader for item in batch]
    assert [item.index for item in items] == list(range(8))
    for item in items:
        own = dataset[item.index]
        assert (item.genotype, item.args) == (own.genotype, own.args)
        np.testing.assert_array_equal(item.graph.edges, own.graph.edges)


def test_items_pickle() -> None:
    item = DeepNets1M("val", FILES)[1]
    copy = pickle.loads(pickle.dumps(item))
    assert copy.graph.weights == item.graph.weights


# Files ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", [split for split in SPLITS if split != "predefined"])
def test_published_files(split: str) -> None:
    """Every graph in a file is that of its genotype, and every row of nodes and distances is that of a node."""
    dataset = DeepNets1M(split, FILES)
    stored = json.loads(dataset.published.meta.read_text())[split]
    tables = [list(stored["meta"][table].values()) for table in ("primitives_ext", "unique_op_names")]
    assert len(dataset) == len(stored["nets"]) > 0
    for item, net in zip(dataset, stored["nets"], strict=True):
        assert len(item.graph) == dataset.num_nodes(item.index) == net["num_nodes"]
        assert item.genotype is not None
        assert item.genotype.as_dict() == net["genotype"]
        assert item.num_params == net["num_params"]
        args = {**item.args, "fc_dim": net["fc_dim"]}
        sampled = replace(item, args=args, num_classes=10, large_images=False, published=None)
        for name, shape in item.settings.parameters():
            assert item.graph.parameter_shapes.get(name, shape) == shape
        ours, theirs = (list(zip(graph.ops, graph.params, strict=True)) for graph in (sampled.graph, item.graph))
        assert not difference(ours, sampled.graph.edges.tolist(), theirs, item.graph.edges.tolist())
        group = dataset.published.group()[str(item.index)]
        assert_same_rows(
            (*file_rows(sampled), [PRIMITIVE_NAMES, NAMES]), (group["adj"][()], group["nodes"][()], tables)
        )


Rows = tuple[Any, Any, Sequence[Sequence[str]]]  # distances, rows of nodes, and the tables that these index


def assert_same_rows(ours: Rows, theirs: Rows) -> None:
    """The same nodes with the same distances from and to all others, each in some topological order, cell by cell."""
    found = []
    for distances, rows, (primitives, names) in (ours, theirs):
        assert not np.tril(distances).any()
        assert (np.diff(rows[:, 1].astype(int)) >= 0).all()
        # The published files count a node without parameters to the last cell before it that has any in their order.
        labels = [
            (primitives[kind], names[name], cell if "." in names[name] else -1) for kind, cell, name in rows.tolist()
        ]
        near = [
            (
                label,
                frozenset(Counter(zip(labels, distances[node].tolist(), strict=True)).items()),
                frozenset(Counter(zip(labels, distances[:, node].tolist(), strict=True)).items()),
            )
            for node, label in enumerate(labels)
        ]
        found.append(Counter(near))
    assert found[0] == found[1]


def test_wide_networks_of_files_have_more_channels() -> None:
    stored = json.loads((FILES / "deepnets1m_eval_meta.json").read_text())["wide"]["nets"]
    for large, factor in ((False, 4), (True, 2)):
        wide = DeepNets1M("wide", FILES, large_images=large)
        assert [item.args["C"] for item in wide] == [factor * net["C"] for net in stored]


def test_training_networks_of_files_get_channels() -> None:
    items = list(DeepNets1M("train", FILES))
    assert all(16 <= item.args["C"] <= 128 and 64 <= item.args["fc_dim"] <= 512 for item in items)
    assert [item.args for item in items] == [item.args for item in DeepNets1M("train", FILES)]
    assert [item.args for item in items] != [item.args for item in DeepNets1M("train", FILES, seed=1)]


def copied(folder: Path) -> Path:
    shutil.copytree(FILES, folder / "files")
    for path in (folder / "files").iterdir():
        path.chmod(0o644)
    return folder / "files"


def truncate(folder: Path) -> None:
    path = folder / "deepnets1m_train.hdf5"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def truncate_meta(folder: Path) -> None:
    path = folder / "deepnets1m_train_meta.json"
    path.write_text(path.read_text()[:-100])


def remove(folder: Path) -> None:
    (folder / "deepnets1m_train.hdf5").unlink()


def remove_meta(folder: Path) -> None:
    (folder / "deepnets1m_train_meta.json").unlink()


def other_hdf5(folder: Path) -> None:
    import h5py

    with h5py.File(folder / "deepnets1m_train.hdf5", "w") as file:
        file["weights"] = np.zeros(3)


def other_split(folder: Path) -> None:
    shutil.copy(folder / "deepnets1m_search.hdf5", folder / "deepnets1m_train.hdf5")
    shutil.copy(folder / "deepnets1m_search_meta.json", folder / "deepnets1m_train_meta.json")


def other_json(folder: Path) -> None:
    (folder / "deepnets1m_train_meta.json").write_text('{"train": [1, 2]}')


def no_json(folder: Path) -> None:
    (folder / "deepnets1m_train_meta.json").write_bytes(b"\x00\xff\x00")


def fewer_graphs(folder: Path) -> None:
    import h5py

    with h5py.File(folder / "deepnets1m_train.hdf5", "r+") as file:
        del file["train/3"]


BROKEN = [
    truncate, truncate_meta, remove, remove_meta, other_hdf5, other_split, other_json, no_json, fewer_graphs,
]  # fmt: skip


@pytest.mark.parametrize("damage", BROKEN, ids=lambda damage: damage.__name__)
def test_broken_files_are_refused(tmp_path: Path, damage: Any) -> None:
    folder = copied(tmp_path)
    damage(folder)
    with pytest.raises(DatasetError, match="deepnets1m_train"):
        DeepNets1M("train", folder)


def broken_nodes(group: Any) -> None:
    rows = group["nodes"][()]
    del group["nodes"]
    group["nodes"] = rows[:, :2]


def unknown_name(group: Any) -> None:
    group["nodes"][1, 2] = 60000


def no_nodes(group: Any) -> None:
    del group["nodes"]


def cycle(group: Any) -> None:
    group["adj"][5, 1] = 1


@pytest.mark.parametrize("damage", [broken_nodes, unknown_name, no_nodes, cycle], ids=lambda damage: damage.__name__)
def test_a_broken_graph_is_named(tmp_path: Path, damage: Any) -> None:
    import h5py

    folder = copied(tmp_path)
    with h5py.File(folder / "deepnets1m_train.hdf5", "r+") as file:
        damage(file["train/2"])
    dataset = DeepNets1M("train", folder)
    assert len(dataset[1].graph) > 0
    with pytest.raises(DatasetError, match="the graph of network 2 of the split train"):
        _ = dataset[2].graph


@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        ({"split": "training"}, ValueError, "'training'; train, val"),
        ({"seed": -1}, ValueError, "seed"),
        ({"size": 0}, ValueError, "size"),
        ({"size": 1 << 70}, ValueError, "size"),
        ({"split": "predefined", "size": 3}, ValueError, "has 2 networks"),
        ({"root": FILES, "size": 9}, ValueError, "has 8 networks"),
        ({"root": "nowhere"}, DatasetError, "is not there"),
        ({"num_ch": (64, 32)}, ValueError, "num_ch"),
        ({"fc_dim": (0, 32)}, ValueError, "fc_dim"),
        *(
            ({name: value}, ValueError, f"{name} is .*; True or False is accepted")
            for name in ("large_images", "wider")
            for value in (None, 1, 224, "no", [])
        ),
    ],
)
def test_bad_arguments(args: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        DeepNets1M(**args)


@pytest.mark.parametrize("name", ["batch_size", "max_nodes", "rank", "world_size"])
@pytest.mark.parametrize("value", ["1", 1.5, None, True, -1])
def test_bad_arguments_of_samplers(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match="positive sizes and a rank below world_size are accepted"):
        NodeBatchSampler(DeepNets1M("test", size=2), **{name: value})


def test_an_index_out_of_range() -> None:
    for index in (1_000_000, -1_000_001):
        with pytest.raises(IndexError, match="of the split train was asked for, which has 1000000"):
            DeepNets1M("train")[index]
    with pytest.raises(TypeError):
        DeepNets1M("train")["0"]
