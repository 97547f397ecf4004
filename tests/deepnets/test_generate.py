"""Writing splits in the published format, and the published statistics."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from helpers.forked import Forked, script
from helpers.full_disk import files_of_at_most
from helpers.golden_data import FOLDER, golden
from helpers.graph_comparison import difference

from ghnfast import ArchGraph, DatasetError
from ghnfast.cli import main
from ghnfast.deepnets import DeepNets1M, generate
from ghnfast.deepnets.files import EVALUATION, make_graph


def labels(graph: ArchGraph) -> list[tuple[str, str | None]]:
    return list(zip(graph.ops, graph.params, strict=True))


def assert_same_networks(written: DeepNets1M, sampled: DeepNets1M) -> None:
    for ours, theirs in zip(written, sampled, strict=True):
        assert ours.genotype == theirs.genotype
        assert ours.num_params == theirs.num_params
        if written.split != "train":  # whose channels are drawn when a file is read
            assert ours.args == theirs.args
            assert sorted(map(str, ours.graph.shapes)) == sorted(map(str, theirs.graph.shapes))
            assert ours.graph.parameter_shapes == theirs.graph.parameter_shapes
        graphs = ours.graph, theirs.graph
        assert not difference(labels(graphs[0]), graphs[0].edges.tolist(), labels(graphs[1]), graphs[1].edges.tolist())
        assert ours.graph.norm_biases.count(None) == theirs.graph.norm_biases.count(None)


@pytest.mark.parametrize("split", ["train", "search", "eval"])
def test_what_is_written_is_read(tmp_path: Path, split: str) -> None:
    counts = generate.splits_to_write(split, 5)
    assert tuple(counts) == (EVALUATION if split == "eval" else (split,))
    paths = generate.write_splits(tmp_path, counts, seed=2)
    assert sorted(tmp_path.iterdir()) == sorted(paths)  # and nothing else is left
    for name in counts:
        assert_same_networks(DeepNets1M(name, tmp_path), DeepNets1M(name, seed=2, size=5))


@pytest.mark.parametrize("split", ["train", "search", "eval"])
def test_files_have_the_published_layout(tmp_path: Path, split: str) -> None:
    name = f"deepnets1m_{split}"
    generate.write_splits(tmp_path, generate.splits_to_write(split, 3), seed=0)
    published = FOLDER / "deepnets1m"
    with h5py.File(tmp_path / f"{name}.hdf5") as ours, h5py.File(published / f"{name}.hdf5") as theirs:
        assert dict(ours.attrs) == dict(theirs.attrs)
        assert set(ours) == set(theirs)
        for group in ours:
            assert set(ours[group]) == {"0", "1", "2"}
            for key in ("adj", "nodes"):
                assert ours[group]["0"][key].dtype == theirs[group]["0"][key].dtype
                assert ours[group]["0"][key].ndim == theirs[group]["0"][key].ndim == 2
            assert set(ours[group]["0"]) == set(theirs[group]["0"])
    our_meta, their_meta = (json.loads((folder / f"{name}_meta.json").read_text()) for folder in (tmp_path, published))
    assert set(our_meta) == set(their_meta)
    for group, found in our_meta.items():
        wanted = their_meta[group]
        assert set(found["meta"]) == set(wanted["meta"])
        for table in found["meta"]:  # every name that their files have is one that ours can have
            assert set(wanted["meta"][table].values()) <= set(found["meta"][table].values())
        for key, value in wanted["nets"][0].items():
            assert key in found["nets"][0]
            assert value is None or isinstance(found["nets"][0][key], (type(value), type(None))), key
        assert set(found["nets"][0]) == set(wanted["nets"][0])


def test_rows_and_distances(tmp_path: Path) -> None:
    """The matrix holds shortest paths; rows are in topological order, cell by cell, the classification layer last."""
    generate.write_splits(tmp_path, {"val": 4}, seed=0)
    meta = json.loads((tmp_path / "deepnets1m_eval_meta.json").read_text())["val"]["meta"]
    with h5py.File(tmp_path / "deepnets1m_eval.hdf5") as file:
        for item in DeepNets1M("val", size=4):
            group = file[f"val/{item.index}"]
            distances, rows = group["adj"][()], group["nodes"][()]
            assert not np.tril(distances).any()
            assert (np.diff(rows[:, 1].astype(int)) >= 0).all()
            assert rows[-1, 1] == item.args["n_cells"] - 1
            names = [meta["unique_op_names"][str(row)] for row in rows[:, 2].tolist()]
            assert [name.split(".")[0] for name in names[-2:]] == ["classifier"] * 2
            assert names[0] == "input"
            ours = np.sort(distances[distances > 0])
            np.testing.assert_array_equal(ours, np.sort(item.graph.distances(250)[item.graph.distances(250) > 0]))
            primitives, names = (list(meta[table].values()) for table in ("primitives_ext", "unique_op_names"))
            graph = make_graph(distances == 1, rows, primitives, names, dict(item.settings.parameters()))
            assert sorted(graph.ops) == sorted(item.graph.ops)


KILLED = """
import os, signal, sys
from ghnfast.deepnets import generate
generate.PART = 3
written = generate.write_part
def write_part(*args):
    if args[2] == 6:
        real = generate.file_rows
        def die(item):
            if item.index == 7:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(item)
        generate.file_rows = die
    written(*args)
generate.write_part = write_part
generate.write_splits(sys.argv[1], {"search": 10}, seed=5)
"""


def test_a_killed_process_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Forked(script, KILLED, tmp_path).wait() == -signal.SIGKILL
    assert not (tmp_path / "deepnets1m_search.hdf5").exists()
    monkeypatch.setattr(generate, "PART", 3)
    made: list[int] = []
    real = generate.file_rows

    def counted(item: Any) -> Any:
        made.append(item.index)
        return real(item)

    monkeypatch.setattr(generate, "file_rows", counted)
    told: list[int] = []
    generate.write_splits(tmp_path, {"search": 10}, seed=5, progress=told.append)
    assert made == [6, 7, 8, 9]
    assert told == [3, 3, 3, 1]
    assert_same_networks(DeepNets1M("search", tmp_path), DeepNets1M("search", seed=5, size=10))


def test_stopped_at_any_move_the_same_call_goes_on_and_leaves_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate.write_splits(tmp_path / "whole", {"val": 2, "test": 1}, seed=0)
    wanted = {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()}
    monkeypatch.setattr(generate, "PART", 1)
    moves = {name: getattr(os, name) for name in ("replace", "unlink", "rmdir")}
    made: list[str] = []
    stop = [0]

    def stopping(name: str) -> Callable[..., None]:
        def move(*paths: Any, **options: Any) -> None:
            if "deepnets" in str(paths[0]):  # and not the lock
                made.append(name)
                if len(made) == stop[0]:
                    raise KeyboardInterrupt
            moves[name](*paths, **options)

        return move

    for name in moves:
        monkeypatch.setattr(os, name, stopping(name))
    folder = tmp_path / "stopped"
    while not folder.exists() or {path.name for path in folder.iterdir()} != wanted.keys():
        stop[0] += 1
        made.clear()
        with contextlib.suppress(KeyboardInterrupt, DatasetError):
            generate.write_splits(folder, {"val": 2, "test": 1}, seed=0)
    assert stop[0] > 5
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == wanted


def test_another_call_does_not_take_what_is_not_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(generate, "put_together", fail)
        with pytest.raises(KeyboardInterrupt):
            generate.write_splits(tmp_path, {"train": 4}, seed=1)
    generate.write_splits(tmp_path, {"train": 3}, seed=2)
    assert_same_networks(DeepNets1M("train", tmp_path), DeepNets1M("train", seed=2, size=3))


def test_existing_files_are_kept(tmp_path: Path) -> None:
    generate.write_splits(tmp_path, {"train": 2}, seed=0)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(DatasetError, match="is there already"):
        generate.write_splits(tmp_path, {"train": 3}, seed=1)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match="cannot be written"):
        generate.write_splits(tmp_path / "file", {"train": 2}, seed=0)


@pytest.mark.parametrize("size", [0, 5_000, 50_000])
def test_a_full_disk_does_not_end_the_process(tmp_path: Path, size: int) -> None:
    with files_of_at_most(size), pytest.raises(DatasetError, match="cannot be written: File too large"):
        generate.write_splits(tmp_path, {"test": 2}, seed=0)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    generate.write_splits(tmp_path, {"test": 2}, seed=0)
    assert len(DeepNets1M("test", tmp_path)) == 2


# Statistics -----------------------------------------------------------------------------------------------------------


def test_statistics_are_those_of_the_paper() -> None:
    """Of 2,000 networks; bench/results has those of a million."""
    paper = golden("paper")
    column = {key: values[0] for key, values in paper["deepnets1m_statistics"].items() if key != "columns"}
    found = generate.gather_statistics("train", 2000, seed=0, threads=2)
    degree, path = (tuple(map(float, column[key].split(" +- "))) for key in ("avg_degree", "avg_path"))
    assert found["avg_degree"][0] == pytest.approx(degree[0], abs=0.1)
    assert found["avg_path"] == pytest.approx(path, abs=1.0)
    assert found["percent_without_bn"] == pytest.approx(column["percent_without_bn"], abs=1.0)
    for name, percent in paper["primitive_percent_in_train"].items():
        assert found["primitive_percent"][name] == pytest.approx(percent, abs=1.5), name
    for key in ("cells", "channels", "nodes"):
        least, most = map(int, column[key].split("-"))
        assert least <= found[key][0] <= found[key][1] <= most


def test_statistics_are_those_of_the_graphs() -> None:
    import networkx

    found = generate.gather_statistics("deep", 12, seed=3, threads=2)
    items = list(DeepNets1M("deep", seed=3, size=12))
    graphs = [item.graph for item in items]
    assert found["graphs"] == 12
    assert found["nodes"] == (min(map(len, graphs)), max(map(len, graphs)))
    assert found["channels"] == (min(item.args["C"] for item in items), max(item.args["C"] for item in items))
    ops = [op for graph in graphs for op in graph.ops]
    for name, percent in found["primitive_percent"].items():
        assert percent == pytest.approx(100 * ops.count(name) / len(ops))
    plain = [graph.to_networkx().to_undirected() for graph in graphs]
    paths = [networkx.average_shortest_path_length(graph) for graph in plain]
    assert found["avg_path"] == pytest.approx((np.mean(paths), np.std(paths)))
    degrees = [2 * graph.number_of_edges() / len(graph) for graph in plain]
    assert found["avg_degree"] == pytest.approx((np.mean(degrees), np.std(degrees)))
    assert found["params_millions"][1] == max(item.settings.elements() for item in items) / 1e6


def test_statistics_do_not_depend_on_threads_or_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    one = generate.gather_statistics("train", 300, seed=0, threads=1)
    assert generate.gather_statistics("train", 300, seed=0, threads=3) == one
    monkeypatch.setattr(generate, "STATISTICS_STEP", 70)
    stepped = generate.gather_statistics("train", 300, seed=0, threads=2)
    assert stepped["nodes"] == one["nodes"]
    assert stepped["avg_path"] == pytest.approx(one["avg_path"])


# Command line ---------------------------------------------------------------------------------------------------------


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "val", "--count", "3", "--out", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "average degree" in text
    assert f"wrote {tmp_path / 'deepnets1m_eval.hdf5'}" in text
    assert main(["generate", "eval", "--count", "4", "--seed", "7", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["seed"], found["files"]) == (7, [])
    assert list(found["statistics"]) == list(EVALUATION)
    assert all(column["graphs"] == 4 for column in found["statistics"].values())


@pytest.mark.parametrize(
    "arguments", [["training"], ["train", "--count", "0"], ["train", "--seed", "-1"], ["train", "--out", os.devnull]]
)
def test_command_with_bad_input(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    count = [] if "--count" in arguments else ["--count", "2"]
    assert main(["generate", *arguments, *count]) == 2
    assert capsys.readouterr().err.startswith("ghnfast: error:")
