"""Damaged files of DeepNets-1M: whatever stands in them, what comes out is a network or a `GhnfastError`."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from helpers.golden_data import FOLDER
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ghnfast import DatasetError, GhnfastError
from ghnfast.deepnets import DeepNets1M

FILES = FOLDER / "deepnets1m"


def copied(folder: Path, *splits: str) -> Path:
    folder.mkdir(exist_ok=True)
    for split in splits or ("train",):
        for name in (f"deepnets1m_{split}.hdf5", f"deepnets1m_{split}_meta.json"):
            shutil.copy(FILES / name, folder / name)
    return folder


def read_everything(folder: Path, split: str = "train") -> None:
    dataset = DeepNets1M(split, folder)
    for index in range(len(dataset)):
        item = dataset[index]
        assert len(item.graph) >= 2
        item.build(light=True)


def change_json(folder: Path, change: Callable[[Any], Any], split: str = "train") -> None:
    path = folder / f"deepnets1m_{split}_meta.json"
    content = json.loads(path.read_text())
    changed = change(content)
    path.write_text(json.dumps(content if changed is None else changed))


def put(*path: Any, value: Any) -> Callable[[Any], None]:
    def change(content: Any) -> None:
        for key in path[:-1]:
            content = content[key]
        content[path[-1]] = value

    return change


def remove(*path: Any) -> Callable[[Any], None]:
    def change(content: Any) -> None:
        for key in path[:-1]:
            content = content[key]
        del content[path[-1]]

    return change


NET = ("train", "nets", 1)
TABLES = ("train", "meta")
CHANGES: dict[str, Callable[[Any], Any]] = {
    **{
        f"{name} = {value!r:.20}": put(*NET, name, value=value)
        for name, value in [
            ("fc_layers", 10**9), ("fc_layers", -1), ("fc_layers", "2"), ("n_cells", 10**9), ("n_cells", 0),
            ("n_cells", None), ("C", 0), ("C", 10**9), ("C_mult", 10**6), ("ks", 10**9 + 1), ("ks", 2),
            ("stem_type", 7), ("preproc", "no"), ("glob_avg", None), ("norm", 5), ("genotype", None),
            ("genotype", "rm -rf"),
            ("genotype", {"normal": []}), ("num_nodes", 10**30), ("num_nodes", -5), ("num_nodes", "many"),
            ("num_nodes", 1e400), ("num_params", None), ("num_params", {}),
            ("num_params", {"cifar10": -1, "imagenet": 5}), ("num_params", [1, 2]),
            ("num_params", {"cifar10": "x", "imagenet": 5}),
        ]
    },
    **{f"no {name}": remove(*NET, name) for name in ("genotype", "n_cells", "norm", "ks", "num_nodes", "num_params")},
    "nets is a dict": put("train", "nets", value={}),
    "nets is a number": put("train", "nets", value=5),
    "nets has numbers": put("train", "nets", value=[5] * 8),
    "no nets": remove("train", "nets"),
    "no tables": remove("train", "meta"),
    "tables are null": put("train", "meta", value=None),
    "a table is a list": put(*TABLES, "primitives_ext", value=["conv"]),
    "a table is empty": put(*TABLES, "unique_op_names", value={}),
    "a table has numbers": put(*TABLES, "unique_op_names", value={str(n): n for n in range(1000)}),
    "a table has unknown names": put(*TABLES, "primitives_ext", value={str(n): "what" for n in range(100)}),
    "a table lacks the first": remove(*TABLES, "primitives_ext", "0"),
    "no split": remove("train"),
    "a list": lambda content: [1],
    "null": lambda content: 0,
    "nested": lambda content: {"train": json.loads("[" * 900 + "]" * 900)},
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_damaged_settings(tmp_path: Path, name: str) -> None:
    folder = copied(tmp_path / "files")
    change_json(folder, CHANGES[name])
    with pytest.raises(DatasetError, match="deepnets1m_train"):
        read_everything(folder)


@pytest.mark.parametrize("split", ["val", "test", "wide"])
@pytest.mark.parametrize("field", ["C", "fc_dim"])
def test_evaluation_networks_need_their_widths(tmp_path: Path, split: str, field: str) -> None:
    """Those of training networks are drawn."""
    folder = copied(tmp_path / "files", "eval")
    change_json(folder, remove(split, "nets", 0, field), "eval")
    with pytest.raises(DatasetError, match=f"network 0 of the split {split} in .* is broken: KeyError.*{field}"):
        read_everything(folder, split)


def test_networks_of_the_search_space_may_leave_widths_open(tmp_path: Path) -> None:
    folder = copied(tmp_path / "files", "search")
    for field in ("C", "fc_dim"):
        change_json(folder, remove("search", "nets", 0, field), "search")
    read_everything(folder, "search")


def replace(group: Any, name: str, data: Any, **options: Any) -> None:
    del group[name]
    group.create_dataset(name, data=data, **options)


def sparse(group: Any, nodes: int = 50_000) -> None:
    for name, shape, dtype in (("adj", (nodes, nodes), "u1"), ("nodes", (nodes, 3), "u2")):
        del group[name]
        group.create_dataset(name, shape, dtype, chunks=True)


def rows_with(group: Any, column: int, value: int) -> None:
    rows = group["nodes"][()].astype(np.int64)
    rows[3, column] = value
    replace(group, "nodes", rows)


def a_group(group: Any) -> None:
    del group["adj"]
    group.create_group("adj")


DAMAGE: dict[str, Callable[[Any], Any]] = {
    "sparse": sparse,
    "sparse and wide": lambda group: sparse(group, 2**31),
    "no edges": lambda group: replace(group, "adj", np.zeros_like(group["adj"][()])),
    "all ones": lambda group: replace(group, "adj", np.ones_like(group["adj"][()])),
    "a cycle": lambda group: group["adj"].__setitem__((5, 1), 1),
    "reversed": lambda group: replace(group, "adj", group["adj"][()].T),
    "a node alone": lambda group: group["adj"].__setitem__((slice(None), 4), 0),
    "not square": lambda group: replace(group, "adj", group["adj"][:, :-1]),
    "of other nodes": lambda group: replace(group, "adj", group["adj"][:-1, :-1]),
    "three dimensions": lambda group: replace(group, "adj", group["adj"][()][None]),
    "a number": lambda group: replace(group, "adj", 5),
    "empty": lambda group: [
        replace(group, name, np.zeros(s))  # type: ignore[func-returns-value]
        for name, s in (("adj", (0, 0)), ("nodes", (0, 3)))
    ],
    "floats": lambda group: replace(group, "adj", group["adj"][()].astype(float)),
    "strings": lambda group: replace(group, "adj", np.full(group["adj"].shape, b"1")),
    "objects": lambda group: replace(group, "nodes", "text", dtype=h5py.string_dtype()),
    "records": lambda group: replace(group, "nodes", np.zeros(group["nodes"].shape, [("a", "i4")])),
    "null": lambda group: replace(group, "nodes", h5py.Empty("u2")),
    "an unknown primitive": lambda group: rows_with(group, 0, 60_000),
    "a negative primitive": lambda group: rows_with(group, 0, -1),
    "an unknown name": lambda group: rows_with(group, 2, 60_000),
    "a negative name": lambda group: rows_with(group, 2, -1),
    "a huge name": lambda group: rows_with(group, 2, 2**62),
    "a group": a_group,
    "no adj": lambda group: group.__delitem__("adj"),
    "no nodes": lambda group: group.__delitem__("nodes"),
    "no classifier": lambda group: replace(group, "nodes", np.where([0, 0, 1], 0, group["nodes"][()])),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_graphs(tmp_path: Path, name: str) -> None:
    folder = copied(tmp_path / "files")
    with h5py.File(folder / "deepnets1m_train.hdf5", "r+") as file:
        DAMAGE[name](file["train/2"])
    dataset = DeepNets1M("train", folder)
    assert len(dataset[1].graph) > 0
    with pytest.raises(
        DatasetError, match=r"the graph of network 2 of the split train in .*deepnets1m_train\.hdf5 is broken"
    ):
        _ = dataset[2].graph


def link_elsewhere(file: Any) -> None:
    del file["train/2"]
    file["train/2"] = h5py.ExternalLink("nowhere.hdf5", "/train/2")


def link_to_itself(file: Any) -> None:
    del file["train/2"]
    file["train/2"] = h5py.SoftLink("/train/2")


@pytest.mark.parametrize("damage", [link_elsewhere, link_to_itself])
def test_links_that_lead_nowhere(tmp_path: Path, damage: Callable[[Any], None]) -> None:
    folder = copied(tmp_path / "files")
    with h5py.File(folder / "deepnets1m_train.hdf5", "r+") as file:
        damage(file)
    with pytest.raises(DatasetError, match="deepnets1m_train"):
        read_everything(folder)


def test_a_split_that_is_an_array(tmp_path: Path) -> None:
    folder = copied(tmp_path / "files")
    with h5py.File(folder / "deepnets1m_train.hdf5", "r+") as file:
        del file["train"]
        file["train"] = np.zeros(8)
    with pytest.raises(DatasetError, match="has no split train"):
        DeepNets1M("train", folder)


def test_a_sparse_matrix_costs_no_memory(tmp_path: Path) -> None:
    """In a process that may have little memory: 50,000 nodes are 2.5 gigabytes of zeros in a few kilobytes."""
    folder = copied(tmp_path / "files")
    with h5py.File(folder / "deepnets1m_train.hdf5", "r+") as file:
        sparse(file["train/2"])
    assert (folder / "deepnets1m_train.hdf5").stat().st_size < 1 << 20
    code = f"""
import resource
from ghnfast import DatasetError
from ghnfast.deepnets import DeepNets1M
dataset = DeepNets1M("train", {str(folder)!r})
_ = dataset[1].graph
most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    dataset[2].graph
except DatasetError as error:
    print(error)
assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - most < 50_000
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "adj is (50000, 50000)" in done.stdout


# Whatever else -------------------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers(-3, 40) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def places(content: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where something stands in JSON."""
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [path, *(place for key, value in items for place in places(value, (*path, key)))]


@pytest.fixture(scope="module")
def small_json() -> Any:
    """The settings of two training networks, and as much of the tables as they need."""
    content = json.loads((FILES / "deepnets1m_train_meta.json").read_text())
    content["train"]["nets"] = content["train"]["nets"][:2]
    return content


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_json(tmp_path_factory: pytest.TempPathFactory, small_json: Any, data: st.DataObject) -> None:
    folder = copied(tmp_path_factory.getbasetemp() / "json")
    content = json.loads(json.dumps(small_json))
    inner = places(content["train"]["nets"], ("train", "nets"))
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(
            st.sampled_from(inner) | st.sampled_from([(), ("train",), ("train", "meta"), (*TABLES, "primitives_ext")])
        )
        try:
            change = remove(*path) if data.draw(st.booleans()) else put(*path, value=data.draw(JSON))
            change(content)
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change has taken this place away
    (folder / "deepnets1m_train_meta.json").write_text(json.dumps(content))
    try:
        read_everything(folder)
    except GhnfastError:
        return


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
@pytest.mark.parametrize("name", ["deepnets1m_train_meta.json", "deepnets1m_train.hdf5"])
def test_any_bytes(tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject) -> None:
    folder = copied(tmp_path_factory.getbasetemp() / "bytes")
    content = bytearray((FILES / name).read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.integers(0, len(content) - 1) | st.integers(0, min(len(content), 4096) - 1))
        new = data.draw(st.binary(min_size=1, max_size=8))
        content[at : at + len(new)] = new
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    (folder / name).write_bytes(content)
    try:
        read_everything(folder)
    except GhnfastError:
        return
