"""Every benchmark runs one round, and what it records is what the tables of the site are made from."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import accuracy
import accuracy_tables
import included
import measured
import plots
import predicted
import profiles as bench_profiles
import properties as bench_properties
import property_tables
import pytest
import report
import torch
import transfer
from helpers.children import environment
from helpers.full_disk import files_of_at_most
from helpers.models import torchvision_model
from helpers.tiny import TINY
from safetensors.torch import load_file

import ghnfast
from ghnfast import checkpoints, profiling
from ghnfast.training import ImageData, make_config, train
from ghnfast.training.data import MNIST_STATISTICS, ImagesInMemory
from ghnfast.training.evaluate import summary
from ghnfast.training.finetune import Job
from ghnfast.training.folder import LOG, WEIGHTS

ROOT = Path(__file__).parents[1]
BENCH = ROOT / "bench"
NEEDS_PPUDA = "reference"
BESIDE = ("reference", "reference_ghn3")

# Which benchmarks run, and what the site says of them.
TEXTS: dict[str, list[Callable[[], str]]] = {
    "models": [report.stages_table],
    "scaling": [],
    "candidates": [report.scaling_text],
    "busy": [report.busy_text],
    "ghn3": [report.ghn3_text],
    "deepnets": [report.deepnets_text, report.statistics_table],
    "search": [report.search_text],
    "precision": [report.precision_text],
    "training": [report.training_text],
}
if torch.cuda.is_available():
    TEXTS["gpu"] = [report.gpu_text]

# Starting a process, with all that a benchmark imports, takes longer than one round of most of them.
ONE_AFTER_THE_OTHER = """
import functools, sys, cpuinfo, pytest
cpuinfo.get_cpu_info = functools.cache(cpuinfo.get_cpu_info)
for file, target in zip(sys.argv[1::2], sys.argv[2::2]):
    arguments = ["-q", "-p", "no:cacheprovider", *OPTIONS, f"--benchmark-json={target}", file]
    if code := pytest.main(arguments):
        sys.exit(int(code))
"""


def run_once(parts: Iterable[str], results: Path, *options: str) -> dict[str, dict[str, Any]]:
    """One round of the benchmarks of each file, in a process as `make bench` starts one for each."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    targets = {part: results / f"{'gpu-any' if part == 'gpu' else f'cpu-{part}'}.json" for part in parts}
    files = [path for part, target in targets.items() for path in (BENCH / f"test_{part}.py", target)]
    done = subprocess.run(
        [sys.executable, "-c", f"OPTIONS = {options}\n{ONE_AFTER_THE_OTHER}", *files],
        cwd=ROOT,
        env={**own, "GHNFAST_BENCH": "once"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return {part: json.loads(target.read_text()) for part, target in targets.items()}


def defined_in(part: str) -> set[str]:
    names = [line.partition("(")[0] for line in (BENCH / f"test_{part}.py").read_text().splitlines()]
    return {name.removeprefix("def ") for name in names if name.startswith("def test_")}


def test_every_benchmark_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for part, result in run_once(TEXTS, tmp_path).items():
        ran = {entry["name"].partition("[")[0] for entry in result["benchmarks"]}
        assert ran == {name for name in defined_in(part) if NEEDS_PPUDA not in name or has_ppuda()}
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    for texts in TEXTS.values():
        assert all(text() for text in texts)


def test_no_benchmark_is_forgotten() -> None:
    files = {path.stem.removeprefix("test_") for path in BENCH.glob("test_*.py")}
    assert files == {*TEXTS, "gpu", *BESIDE}


def has_ppuda() -> bool:
    return importlib.util.find_spec("ppuda") is not None


@pytest.mark.parametrize("part", BESIDE)
def test_benchmarks_beside_the_published_implementation(part: str, tmp_path: Path) -> None:
    needed = ["ppuda"] if part == "reference" else ["ppuda", "ghn3"]
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:  # a benchmark that cannot be run says what it lacks; `make bench` leaves it out
        with pytest.raises(pytest.skip.Exception, match=rf"\({missing[0]}\)"):
            importlib.import_module(f"test_{part}")
        return
    assert run_once([part], tmp_path)[part]["benchmarks"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="they run in earnest")
def test_benchmarks_of_gpus_run_without_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them, on a GPU that is none: they call what there is."""
    monkeypatch.setenv("PYTHONPATH", environment()["PYTHONPATH"])
    result = run_once(["gpu"], tmp_path, "-p", "helpers.dry_gpu")["gpu"]
    ran = {entry["name"].partition("[")[0] for entry in result["benchmarks"]}
    assert ran == {name for name in defined_in("gpu") if NEEDS_PPUDA not in name}
    result["machine_info"] |= {"gpu": "none", "triton": "3"}
    (tmp_path / "gpu-any.json").write_text(json.dumps(result))
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    assert {name for name in report.GPU_LINES if NEEDS_PPUDA not in name} < ran
    for part in ("On one none", "us a network", "nodes, by kinds of sweep", "GB/s", "by GHN-3-T", "A training step"):
        assert part in report.gpu_text()


def test_an_unknown_size_is_refused() -> None:
    settings = environment(BENCH, GHNFAST_BENCH="twice")
    done = subprocess.run([sys.executable, "-c", "import sizes"], env=settings, capture_output=True, text=True)
    assert "twice" in done.stderr


# profiling -----------------------------------------------------------------------------------------------------------


def test_stages_of_a_model_that_the_ghn_was_not_trained_for() -> None:
    """The default GHN warns of other images; what is timed does not, also where warnings are errors."""
    ghn, model = ghnfast.load(checkpoints.DEFAULT), torchvision_model("squeezenet1_1")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        functions = profiling.stages(model, ghn)
        seconds = profiling.medians(functions, 1)
        assert profiling.extra_memory(functions["total"]) != 0
    assert min(seconds.values()) > 0
    found = []
    for name in ("total", "given"):
        functions["fill"]()
        functions[name]()
        found.append([parameter.detach().clone() for parameter in model.parameters()])
    assert all(map(torch.equal, *found))
    assert len(found[0][0].unique()) > 1


# properties ----------------------------------------------------------------------------------------------------------


def test_properties_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_properties, "LABELS", {10: 1, 20: 2})
    monkeypatch.setattr(bench_properties, "OTHERS", 20)
    monkeypatch.setattr("ghnfast.properties.predictor.GRID", {"C": [10], "gamma": ["auto"], "epsilon": [0.1]})
    out = tmp_path / "properties.json"
    bench_properties.main(["--rows", "40", "--random-ghns", "2", "--out", str(out)])
    found = json.loads(out.read_text())
    assert [*found] == ["nas-bench-201", "nas-bench-macro"]
    for results in found.values():
        random = results["accuracy"]["random weights, stats"]["20"]
        assert (len(random["ghns"]), random["choices"]) == (2, 2)
        assert all(-1 <= cell["tau"] <= 1 for row in results["accuracy"].values() for cell in row.values())
    assert "| 13 zero-cost proxies |" in property_tables.properties_text(tmp_path)


def test_own_networks_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ghnfast.properties.predictor.GRID", {"C": [10], "gamma": ["auto"], "epsilon": [0.1]})
    lines = measured.TABLE.read_text().splitlines()
    some = [line for split in ("val", "test") for line in [x for x in lines if x.startswith(split)][:6]]
    (tmp_path / "some.csv").write_text("\n".join([lines[0], *some]))
    out = tmp_path / measured.TARGET.name
    options = ["--table", tmp_path / "some.csv", "--out", out, "--random-ghns", 2, "--permutations", 2]
    measured.main([*map(str, options), "--ghn", "digits=ghn2-mnist5k"])
    found = json.loads(out.read_text())
    assert found["networks"] == {"val": 6, "test": 6}
    assert len(found["as published"]["random weights"]["accuracy"]["each"]) == 4
    assert "| digits, by default |" in property_tables.measured_text(tmp_path)
    out = tmp_path / predicted.TARGET.name
    options = ["--table", tmp_path / "some.csv", "--out", out, "--random-ghns", 2, "--images", 30]
    predicted.main(list(map(str, options)))
    found = json.loads(out.read_text())
    assert found["about"]["accuracy"] > 40  # of digits, by the GHN that was trained on them
    assert len(found["accuracy"]["without labels"]) == 3
    assert "| the same and predicted accuracy, with labels |" in property_tables.predicted_text(tmp_path)


# report --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", report.SECTIONS, ids=lambda page: page.stem)
def test_pages_say_what_was_measured(page: Path) -> None:
    assert report.updated(page) == page.read_text(), "run python bench/report.py"


@pytest.mark.parametrize("plot", report.PLOTS)
def test_plots_are_what_was_measured(plot: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    committed = plots.files_of(plot)
    monkeypatch.setattr(plots, "DOCS", tmp_path)
    plots.save(plot, report.PLOTS[plot])
    for style, drawn in plots.files_of(plot).items():
        assert numbers_of(drawn) == pytest.approx(numbers_of(committed[style]), abs=1e-3)


def numbers_of(drawing: Path) -> list[float]:
    """The places of all points of all lines and markers; fonts differ between versions of matplotlib."""

    text = drawing.read_text()
    lines = re.findall(r'<path d="([^"]*)" clip-path', text)
    places = re.findall(r'<use [^>]*x="([0-9.]+)" y="([0-9.]+)"[^>]*fill', text)
    found = [float(number) for line in lines for number in re.findall(r"-?[0-9.]+", line)]
    return found + [float(number) for place in places for number in place]


def test_gpu_results_make_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = dict.fromkeys(("states", "source", "decode", "device", "main", "plain", "fill", "trace", "graph"), 1.0)
    benchmarks = [
        {"name": "test_model[a]", "extra_info": {"model": "resnet50", "median_ms": times}},
        {"name": "test_reference[a]", "extra_info": {"model": "resnet50", "times_faster": 12.34}},
        {"name": "test_values[8]", "extra_info": {"graphs": 8, "us_a_network": 345.6}},
        {
            "name": "test_one_after_the_other[a]",
            "extra_info": {"model": "vgg11", "ghn": "GHN-2", "median_ms": {"main": 0.55}},
        },
        {"name": "test_training_batch", "extra_info": {"graphs": 8, "nodes": 2200, "forward_ms": 1, "both_ms": 2}},
        {
            "name": "test_bandwidth[a]",
            "extra_info": {"model": "vgg16", "bytes": 2e9, "store_ms": 1, "whole_ms": 1.5, "copied_per_second": 2e12},
        },
    ]
    result = {
        "machine_info": {"gpu": "A GPU", "torch": "2", "triton": "3"},
        "commit_info": {"id": "0123456789"},
        "benchmarks": benchmarks,
    }
    (tmp_path / "gpu-a.json").write_text(json.dumps(result))
    assert "Kernel by kernel on one NVIDIA H100" in report.gpu_text()
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    text = report.gpu_text()
    for part in (
        "On one A GPU",
        "0123456)",
        "| resnet50 |",
        "12.3 times faster",
        "2,200 nodes",
        "2,000 GB/s",
        "4,000 GB/s",
    ):
        assert part in text


# accuracy and default ------------------------------------------------------------------------------------------------


def test_accuracies_are_written_split_by_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accuracy, "RESULTS", tmp_path)
    images = ImagesInMemory(torch.full((10, 3, 32, 32), 7, dtype=torch.uint8), torch.arange(10), MNIST_STATISTICS)
    few = ImageData("few", images, images, images, images, num_classes=10, input_shape=(3, 32, 32))
    monkeypatch.setattr("ghnfast.cli.evaluate.load_data", lambda *args, **settings: few)
    for split in ("test", "bnfree"):
        assert accuracy.main("ghn2", ["--split", split, "--limit", "1"]) == 0
    found = json.loads((tmp_path / "accuracy-ghn2.json").read_text())
    assert list(found) == ["test", "bnfree"]
    for split, result in found.items():
        assert result["about"]["options"] == f"--split {split} --limit 1"
        assert len(result["about"]["commit"]) == 40
        assert result["networks"] == [result["mean"]]
    assert "| GHN-2 (`ghn2-mnist5k`) |" in accuracy_tables.digits_text(tmp_path)
    assert accuracy.main("ghn2", ["--split", "bnfree", "--limit", "2"]) == 0
    before = json.loads((tmp_path / "accuracy-ghn2.json").read_text())["bnfree"]
    assert accuracy.main("ghn2", ["--split", "bnfree", "--networks", "1"]) == 0
    after = json.loads((tmp_path / "accuracy-ghn2.json").read_text())["bnfree"]
    assert all(after[key] == value for key, value in before.items() if key != "mean_top5")
    assert after["again"][0]["networks"] == [1]


def test_the_table_says_which_images_were_seen(tmp_path: Path) -> None:
    def write(name: str, **splits: dict[str, Any]) -> None:
        (tmp_path / f"accuracy-{name}.json").write_text(json.dumps(splits))

    def split(options: str, *accuracies: float) -> dict[str, Any]:
        about = {"options": options, "commit": "0" * 40, "machine": "one"}
        return {**summary(accuracies), "seconds": 1.0, "about": about}

    write(
        "fashion-ghn2",
        test=split("--images 250 --in-turn", 70.0, 80.0),
        wide=split("--images 250 --in-turn", 60.0),
        deep=split("--images 1000", 50.0),
        predefined=split("", 40.0, 30.0),
        families={**split("--images 1000", 20.0), "families": {"vgg": 20.0}},
    )
    text = accuracy_tables.fashion_text(tmp_path)
    assert "so many: 250 in turn (test, wide); 1,000 (deep, families); 10,000 (predefined)." in text
    assert "as predicted" not in text
    write("fashion-sgd-tenth", test=split("--images 1000", 60.0, 65.0))
    write("fashion-ghn2-first", test=split("--images 1000", 75.0, 64.0))
    text = accuracy_tables.fashion_text(tmp_path)
    assert "Of the first 2 test networks, on the same 1,000 images, 1 are better as predicted" in text
    assert "75 against 60, 64 against 65." in text


def test_accuracies_of_options_that_do_not_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(accuracy, "RESULTS", tmp_path)
    assert accuracy.main("none", ["--split", "tset"]) == 2
    assert not list(tmp_path.iterdir())


MODELS = """
from torch import nn

def make(num_classes=2):
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes))
"""


def test_results_and_weights_are_there_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that is repeated takes what is there for the whole."""
    results, weights = tmp_path / "results.json", tmp_path / "weights.safetensors"
    accuracy.write(results, {"test": 1})
    for name in ("load_data", "Batches", "fit"):
        monkeypatch.setattr(transfer, name, MagicMock())
    monkeypatch.setattr(transfer, "find_model", lambda *_: lambda: torch.nn.Linear(100, 10))
    with files_of_at_most(1000):
        with pytest.raises(OSError, match="File too large"):
            accuracy.write(results, {"test": list(range(1000))})
        with pytest.raises(OSError, match="File too large"):
            transfer.pretrained("a network", "5@mnist5k", weights)
    assert json.loads(results.read_text()) == {"test": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["results.json"]
    assert transfer.pretrained("a network", "5@mnist5k", weights) == str(weights)
    assert load_file(weights)["weight"].shape == (10, 100)


def test_transfer_is_measured_start_by_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = torch.randint(256, (120, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    images = ImagesInMemory(pixels, torch.arange(120) % 2, MNIST_STATISTICS)
    few = ImageData("few", images, images, None, images, num_classes=2, input_shape=(3, 8, 8))
    for module in ("ghnfast.cli.finetune", "transfer"):
        monkeypatch.setattr(f"{module}.load_data", lambda *args, **settings: few)
    monkeypatch.setattr(transfer, "RESULTS", tmp_path)
    (tmp_path / "models.py").write_text(MODELS)
    network = f"{tmp_path}/models.py:make"
    command = ["name", "--network", network, "--start", "he", "--start", "sgd=2@few", "--postprocess", "both"]
    command += [
        "--work",
        str(tmp_path / "work"),
        "--shots",
        "20",
        "--held-out",
        "12",
        "--batch-size",
        "8",
        "--seeds",
        "2",
    ]
    command += ["--steps", "2", "--rates", "0.1", "--evaluate-at", "1"]
    assert transfer.transfer_text(tmp_path) == "Transfer has not been measured yet."
    assert transfer.main(command) == 0
    target = tmp_path / "transfer-name.json"
    first = target.read_bytes()
    rows = json.loads(first)[network]
    assert list(rows) == ["he", "he + post", "sgd", "sgd + post"]
    assert len({row["settings"]["weights"] for row in rows.values()}) == 2
    assert [row["settings"]["postprocess"] for row in rows.values()] == [False, True, False, True]
    assert all(len(row["about"]["commit"]) == 40 and row["n"] == 2 for row in rows.values())
    text = transfer.transfer_text(tmp_path)
    for part in ("| he + post |", "40 training images of few, at one rate for all", "after so many", "| start | 1 |"):
        assert part in text
    monkeypatch.setattr(Job, "run", None)  # nothing is trained again
    assert transfer.main(command) == 0
    assert target.read_bytes() == first
    assert transfer.main([*command, "--rates", "no"]) == 2


def test_runs_become_the_default(tmp_path: Path) -> None:
    first = train(make_config({**TINY, "steps": 2}), tmp_path / "first")
    train(make_config({**TINY, "steps": 3, "init": str(first)}), tmp_path / "second")
    folder = tmp_path / "default"
    folder.mkdir()
    (folder / "stage-7.toml").touch()  # of a default before
    included.main([tmp_path / "first", tmp_path / "second"], folder)
    assert sorted(path.name for path in folder.iterdir()) == ["ghn.safetensors", LOG, "stage-1.toml", "stage-2.toml"]
    steps = [json.loads(line)["step"] for line in (folder / LOG).read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 5]
    included.main([tmp_path / "second"], folder, after=True)
    assert (folder / "stage-3.toml").read_text() == (folder / "stage-2.toml").read_text()
    steps = [json.loads(line)["step"] for line in (folder / LOG).read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 5, 6, 7, 8]
    shipped, trained = ghnfast.load(folder / "ghn.safetensors"), ghnfast.load(tmp_path / "second" / WEIGHTS)
    for name, weight in trained.state_dict().items():
        assert torch.equal(shipped.state_dict()[name], weight.half().to(weight)), name


def test_profiles(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of the least there is: a trace of each, and which operations took longest."""
    for name, value in {"MODEL": "squeezenet1_1", "NETWORKS": 1, "IMAGES": 2, "ROWS": 5}.items():
        monkeypatch.setattr(bench_profiles, name, value)
    bench_profiles.main([str(tmp_path), "--device", "cpu"])
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary.pop("device") == "cpu"
    del summary["torch"]
    assert summary.keys() == {"prediction", "prediction-ghn3", "training"}
    printed = capsys.readouterr().out
    for what, rows in summary.items():
        assert json.loads((tmp_path / f"{what}.json").read_text())["traceEvents"]
        assert [row["us"] for row in rows] == sorted((row["us"] for row in rows), reverse=True)
        assert 0 < len(rows) <= 5
        assert all(row["name"][:90] in printed for row in rows)
