"""Writes the tables of the site and of the README, and the plots in docs/, from what was measured and logged."""

from __future__ import annotations

import itertools
import json
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import plots
from accuracy_tables import BESIDE_SGD, digits_text, equal_text, fashion_text
from measured import TARGET as MEASURED
from property_tables import measured_text, predicted_text, properties_text
from transfer import markdown, transfer_text

from ghnfast.deepnets.generate import ROWS, as_tuple

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"
DOCS = ROOT / "docs"
README, PERFORMANCE, TRAINED = ROOT / "README.md", DOCS / "performance.md", DOCS / "results.md"
PLOT, LEARNING, BARS = "speed", "learning", "properties"  # each has a file for light and one for dark grounds
LOGS = {"GHN-2": ROOT / "ghnfast" / "included" / "ghn2-mnist5k" / "log.jsonl", "GHN-1": RESULTS / "training-ghn1.jsonl",
        "MLP": RESULTS / "training-mlp.jsonl"}  # fmt: skip
SHOWN = ("resnet50", "densenet121", "vgg16", "mobilenet_v3_large", "efficientnet_b0", "squeezenet1_1", "convnext_tiny")

Json = dict[str, Any]


def read(part: str) -> Json:
    result: Json = json.loads((RESULTS / f"cpu-{part}.json").read_text())
    return result


def entries(part: str, test: str) -> list[Json]:
    """What the benchmarks of one function recorded."""
    found = [entry for entry in read(part)["benchmarks"] if entry["name"].partition("[")[0] == test]
    return [{**entry["extra_info"], "median": entry["stats"]["median"]} for entry in found]


def table(head: list[str], rows: list[list[str]]) -> str:
    return markdown([head, *rows])


def machine(part: str) -> str:
    result = read(part)
    info, commit = result["machine_info"], result["commit_info"]
    return (
        f"{info['cpu']}, {info['threads']} threads, {info['instruction_set']}, torch {info['torch']}, "
        f"Python {info['python']}, commit {commit['id'][:7]}"
    )


def stages_table() -> str:
    rows = []
    for entry in entries("models", "test_model"):
        ms = entry["median_ms"]
        total = ms["main"]
        memory = "" if entry["extra_bytes"] is None else f"{entry['extra_bytes'] / 2**20:.0f} MiB"
        parts = [f"{ms[name]:.2f}" for name in ("trace", "sweep", "decode")]
        whole = [f"{total:.1f}", f"{ms['given']:.1f}", f"{ms['fill']:.1f}", f"{total / ms['fill']:.1f}"]
        rows.append([entry["model"], f"{entry['parameters'] / 1e6:.1f} M", *parts, *whole, memory])
    head = ["model", "parameters", "trace", "sweep", "decode", "total", "graph given", "`fill_`", "total / `fill_`"]
    return table([*head, "extra memory"], rows)


def geometric_mean(values: list[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


def reference_table() -> str:
    models = {entry["model"]: entry for entry in entries("reference", "test_model")}
    rows = [
        [name, f"{entry['median_ms']['reference']:.0f}", f"{entry['median_ms']['main']:.1f}", times(entry)]
        for name, entry in ((name, models[name]) for name in SHOWN if name in models)
    ]
    rows += [
        [f"message passing alone, {entry['model']}", f"{entry['median_ms']['reference']:.0f}",
         f"{entry['median_ms']['main']:.2f}", times(entry)]
        for entry in entries("reference", "test_sweep")
    ]  # fmt: skip
    return table(["milliseconds", "published", "ghnfast", "times faster"], rows) + "\n\n" + faster_text()


def faster_text(part: str = "reference") -> str:
    models = entries(part, "test_model")
    faster = [entry["times_faster"] for entry in models]
    least = min(models, key=lambda entry: entry["times_faster"])
    return (
        f"Over the {len(models)} torchvision models that the published implementation can predict, the geometric mean "
        f"is {geometric_mean(faster):.1f} times faster, and the least {min(faster):.1f} times ({least['model']})."
    )


def times(entry: Json) -> str:
    return f"{entry['times_faster']:.0f}" if entry["times_faster"] >= 100 else f"{entry['times_faster']:.1f}"


def ghn3_text() -> str:
    rows = [
        [entry["model"], *(f"{entry['median_ms'][name]:.2f}" for name in ("sweep", "decode", "total", "main", "fill")),
         f"{entry['median_ms']['main'] / entry['median_ms']['fill']:.1f}"]
        for entry in entries("ghn3", "test_model")
    ]  # fmt: skip
    layers = "; ".join(
        f"{entry['nodes']:,} nodes {entry['median'] * 1e3:.2f} ms, with the same table in plain PyTorch "
        f"{entry['times_faster']['table in PyTorch']:.1f} times as long, with a bias for every pair "
        f"{entry['times_faster']['every pair in PyTorch']:.0f} times"
        for entry in entries("ghn3", "test_node_states")
    )
    text = table(["GHN-3-T", "layers", "decode", "total", "graph given", "`fill_`", "given / `fill_`"], rows)
    (xl,) = entries("ghn3", "test_xl")
    size, memory = xl["weights"] / 1e9, (xl["extra_memory"] or 0) / 1e6
    return text + (
        f"\n\nNode states alone, for chains with skips: {layers}. GHN-3-XL, with {size:.1f} GB of weights, predicts "
        f"{xl['model']} in {xl['median'] * 1e3:.0f} ms, with {memory:.0f} MB of memory besides; products of square "
        f"matrices with as many operations, 72e9, take torch {xl['share_of_product']:.2f} times as long."
    )


def ghn3_reference_text(part: str = "reference_ghn3") -> str:
    models, (xl,) = entries(part, "test_model"), entries(part, "test_xl")
    faster = [entry["times_faster"] for entry in models]
    least = min(models, key=lambda entry: entry["times_faster"])
    states = entries(part, "test_node_states")
    alone = ", ".join(f"{entry['times_faster']:.0f} with {entry['nodes']:,} nodes" for entry in states)
    return (
        f"Beside the published code of GHN-3 ({machine(part)}): over {len(models)} torchvision models, the "
        f"geometric mean is {geometric_mean(faster):.1f} times faster, and the least {min(faster):.1f} times "
        f"({least['model']}); GHN-3-XL on {xl['model']}, {xl['times_faster']:.1f} times; node states alone, {alone}."
    )


def scaling_text() -> str:
    largest = {entry["kind"]: entry for entry in entries("scaling", "test_nodes")}
    seconds = {
        kind: f"{entry['nodes']:,} nodes in a {kind} graph take {entry['median'] * 1e3:.0f} ms"
        for kind, entry in largest.items()
    }
    return f"Shortest paths and message passing: {seconds['chain']}, {seconds['dense']}. {candidates_text()}"


def busy_text() -> str:
    found = entries("busy", "test_threads")
    quiet, busy = (
        " and ".join(
            f"{entry['median_ms']['main']:.1f} and {entry['median_ms']['product']:.1f} ms with {entry['threads']}"
            for entry in found
            if entry["busy"] == wanted
        )
        for wanted in (False, True)
    )
    return (
        f"By threads: a ResNet-50 with its graph given, and a product of two matrices of 400 x 400 by torch, take "
        f"{quiet}; beside processes that keep all cores busy {busy}, and then others from run to run: threads wait for "
        f"each other ({machine('busy')})."
    )


def candidates_text(part: str = "candidates") -> str:
    speed = {(entry["given"], entry["precision"]): entry for entry in entries(part, "test_candidates")}
    graphs, halves, modules = (
        f"{speed[key]['per_second']:.0f}"
        for key in (("graphs", "float32"), ("graphs", "bfloat16"), ("modules", "float32"))
    )
    shares = ", ".join(
        f"{entry['share']:.2f} in batches of {entry['batch']}" for entry in entries(part, "test_share_of_products")
    )
    return (
        f"In batches of {speed['graphs', 'float32']['batch']}, {graphs} DeepNets networks a second are predicted from "
        f'their graphs ({halves} with `precision="bfloat16"`), {modules} a second from modules. As a share of what '
        f"torch's products of matrices with as many operations would reach: {shares} ({machine(part)})."
    )


def without_avx512_text() -> str:
    """What three parts of `make bench` measured on a machine whose vectors are half as wide, kept by other names."""
    published, ghn3, candidates = (f"{part}-avx2" for part in ("reference", "reference_ghn3", "candidates"))
    return (
        f"Without AVX-512 ({machine(published)}): {faster_text(published)} "
        f"{ghn3_reference_text(ghn3)} {candidates_text(candidates)}"
    )


def deepnets_text() -> str:
    speed = {entry["what"]: entry["per_second"] for entry in entries("deepnets", "test_graphs")}
    train, *_ = (entry for entry in entries("deepnets", "test_statistics") if entry["split"] == "train")
    return (
        f"On one core, {speed['shapes']:,.0f} training graphs of DeepNets-1M a second are sampled with levels and the "
        f"shapes of parameters, {speed['distances']:,.0f} with all distances to 50 hops; the statistics of a million "
        f"take {train['median']:.0f} s on {train['threads']} cores and {train['extra_bytes'] / 2**20:.0f} MiB "
        f"({machine('deepnets')})."
    )


def statistics_table() -> str:
    """The statistics of DeepNets-1M, a column for each split; the published ones are in tests/golden/paper.json."""
    columns = {entry["split"]: entry["statistics"] for entry in entries("deepnets", "test_statistics")}
    rows = [[title, *(text.format(*as_tuple(found[key])) for found in columns.values())] for title, key, text in ROWS]
    return table(["", *columns], rows)


def search_text() -> str:
    (found,) = entries("search", "test_search")
    threads = f"{found['threads']} thread{'' if found['threads'] == 1 else 's'}"
    memory = "" if found["extra_bytes"] is None else f", with {found['extra_bytes'] / 2**20:.0f} MiB besides"
    return (
        f"`properties.search` samples, embeds and ranks {found['networks']:,} networks, from {found['labels']} labels, "
        f"in {found['median']:.0f} s with {threads} ({found['cpu_seconds']:.0f} s of processor time){memory} "
        f"({machine('search')})."
    )


def precision_text() -> str:
    errors = {entry["precision"]: f"{entry['largest_error']:.0e}" for entry in entries("precision", "test_precision")}
    return (
        f'`ghn.precision = "tf32"` or `"bfloat16"` lets a GPU round the operands of the last product: '
        f"by rounding of the same kind, emulated on the CPU, the kernels of a ResNet-50 move by "
        f"{errors['tf32']} and {errors['bfloat16']} of their largest value at most."
    )


def training_text() -> str:
    ratios = {entry["name"]: entry["ratio"] for entry in named_entries("training")}
    text = (
        "A training step (sampling, prediction, networks, backward, update) with 4 networks and 64 images takes "
        f"{ratios['test_step[64]']:.2f} times as long as the same networks' own forward and backward passes, with 20 "
        f"images, as in the default's runs, {ratios['test_step[20]']:.2f} times"
    )
    if "test_reference_step" in ratios:
        text += f"; the published trainer, with 64 images, {ratios['test_reference_step']:.2f} times"
    return f"{text} ({machine('training')})."


def named_entries(part: str) -> list[Json]:
    return [{"name": entry["name"], **entry["extra_info"]} for entry in read(part)["benchmarks"]]


def choice_line(extra: dict[str, Any]) -> str:
    names = ("cpp", "cuda", "triton")
    states = ", ".join(f"`{name}` {extra['median_ms'][name]:.2f} ms" for name in names)
    steps = ", ".join(f"`{name}` {us:.2f} us" for name, us in extra["us_a_step"].items())
    networks = "network" if extra["graphs"] == 1 else "networks"
    return (
        f"{extra['graphs']} {networks} of up to {extra['largest']} nodes, by kinds of sweep: {states}; a step of the "
        f"chain in the kernels: {steps}."
    )


def other_models_line(found: list[tuple[str, dict[str, Any]]]) -> list[str]:
    own = [f"{extra['model']} {extra['median_ms']['main']:.2f}" for test, extra in found if test == "test_other_models"]
    return [f"Others, from their graphs, in milliseconds: {', '.join(own)}."] if own else []


# What is said of a benchmark's result.
GPU_LINES: dict[str, Callable[[dict[str, Any]], str]] = {
    "test_reference": lambda extra: (
        f"{extra['model']}: {times(extra)} times faster than the published implementation on the same GPU."
    ),
    "test_reference_ghn3": lambda extra: (
        f"{extra['model']} by GHN-3-T, graphs included: {times(extra)} times faster than its published code."
    ),
    "test_batches": lambda extra: (
        f"{extra['graphs']} test networks of DeepNets-1M in a batch, from their graphs: "
        f"{extra['us_a_network']['main']:,.0f} us a network."
    ),
    "test_one_after_the_other": lambda extra: (
        f"{extra['model']} by {extra['ghn']}, from its graph, one prediction right after the other: "
        f"{extra['median_ms']['main']:.2f} ms."
    ),
    "test_values": lambda extra: (
        f"The parameters of {extra['graphs']} test networks of DeepNets-1M as tensors, from their graphs: "
        f"{extra['us_a_network']:,.0f} us a network."
    ),
    "test_ghn3": lambda extra: (
        f"{extra['model']} by GHN-3-T, from its graph: {extra['median_ms']['main']:.2f} ms; its node states take the "
        f"device {extra['states_ms']:.3f} ms."
    ),
    "test_training_batch": lambda extra: (
        f"A batch of {extra['graphs']} training networks with {extra['nodes']:,} nodes: the sweep takes "
        f"{extra['forward_ms']:.2f} ms forward, {extra['both_ms']:.2f} ms forward and backward."
    ),
    "test_training_step": lambda extra: (
        f"A training step with {extra['networks']} networks and {extra['images']} images takes {extra['ratio']:.2f} "
        "times as long as the networks' own passes."
    ),
    "test_choice_of_sweeps": choice_line,
    "test_bandwidth": lambda extra: (
        f"{extra['model']}: stores take the device {extra['store_ms']:.3f} ms, which is "
        f"{extra['bytes'] / extra['store_ms'] / 1e6:,.0f} GB/s; a copy moves "
        f"{2 * extra['copied_per_second'] / 1e9:,.0f} GB/s. The last step, with its host, takes "
        f"{extra['whole_ms']:.2f} ms."
    ),
}


def gpu_text() -> str:
    """A table for each GPU that was measured."""
    parts = []
    for path in sorted(RESULTS.glob("gpu-*.json")):
        result = json.loads(path.read_text())
        info, commit = result["machine_info"], result["commit_info"]["id"][:7]
        found = [(entry["name"].partition("[")[0], entry["extra_info"]) for entry in result["benchmarks"]]
        names = ["states", "source", "decode", "device", "main", "plain", "fill"]
        rows = [
            [extra["model"], *(f"{extra['median_ms'][name]:.2f}" for name in names)]
            for test, extra in found
            if test == "test_model"
        ]
        head = ["milliseconds", "node states", "decoders' first layers", "last step", "all three", "graph given",
                "plain PyTorch", "`fill_`"]  # fmt: skip
        lines = other_models_line(found)
        lines += [said(extra) for name, said in GPU_LINES.items() for test, extra in found if test == name]
        title = f"On one {info['gpu']} (torch {info['torch']}, triton {info['triton']}, commit {commit}), medians:"
        parts += [title, table(head, rows), "\n".join(f"- {line}" for line in lines)]
    return "\n\n".join([*parts, first_gpu_text()])


def first_gpu_text() -> str:
    """What runs on a GPU showed, kernel by kernel."""
    found: Json = json.loads((ROOT / "bench" / "results" / "first-h100.json").read_text())
    runs = [run["kernels_us"] for run in found["runs"]]
    names = {"ghn2": "GHN-2", "ghn3-t": "GHN-3-T"}
    rows = [
        [names[ghn], f"`{kernel}`", *(f"{run[ghn][kernel]:.0f}" if kernel in run[ghn] else "-" for run in runs)]
        for ghn in names
        for kernel in dict.fromkeys(itertools.chain(*(run[ghn] for run in runs)))
    ]
    rows += [[names[ghn], "all", *(f"{sum(run[ghn].values()):.0f}" for run in runs)] for ghn in names]
    info, parts, last = found["machine_info"], found["runs"][1]["parts_us"], found["runs"][-1]
    walls = ", ".join(f"{run['wall_us']['ghn2, sweep cuda'] / 1e3:.2f}" for run in found["runs"])
    sweeps = last["sweep_of_8_graphs_of_280_nodes_us"]
    return (
        f"Kernel by kernel on one {info['gpu']} (torch {info['torch']}, triton {info['triton']}): microseconds of the "
        "device for a ResNet-50 from its graph, in the first run, after the last step was split into products and "
        "stores, products went to tensor cores and weights were fetched ahead, at commit 43a26df, where operands are "
        "rounded and the check is within the products, and at 2b28ac8, where forward passes are recorded, layers of "
        "attention keep what they compute in registers, and the sweep's backward pass is in CUDA C++:\n\n"
        f"{table(['', 'kernels', 'first', 'second', '43a26df', '2b28ac8'], rows)}\n\n"
        f"Storing the 25.6 million parameters took {parts['stores of resnet50']:.0f} us, `fill_` of as many numbers "
        f"{parts['fill_ of 25,557,032 numbers']:.0f} us. As the host sees it, one prediction right after the other "
        f"took {walls} ms by a script; the benchmark above ran on another machine of the kind, whose host was slower "
        f"then. The sweep of 8 graphs of 280 nodes, forward and backward, took {sweeps['all, launched by the host']} "
        f"us, of which the device worked {sweeps['all, as one CUDA graph']}; with the backward pass in Triton "
        f"{sweeps['all, backward pass by Triton']:,}. `bench/results/first-h100.json` says what ran, and which tests "
        "passed."
    )


PLOTS: dict[str, Callable[[Any], Any]] = {
    PLOT: lambda plt: plots.speed(plt, entries("reference", "test_model")),
    LEARNING: lambda plt: plots.learning(plt, LOGS),
    BARS: lambda plt: plots.bars(plt, json.loads(MEASURED.read_text())["as published"]),
}


def bench_text() -> str:
    return "\n\n".join(
        [
            f"Medians in milliseconds, stages taking turns ({machine('models')}):",
            stages_table(),
            f"Beside the published implementation, taking turns in one process ({machine('reference')}):",
            reference_table(),
            plots.both_grounds("time against parameters", PLOT),
            f"GHN-3-T, in the same way ({machine('ghn3')}):",
            ghn3_text(),
            ghn3_reference_text(),
            scaling_text(),
            without_avx512_text(),
            busy_text(),
            deepnets_text(),
            statistics_table(),
            search_text(),
            training_text(),
            gpu_text(),
            precision_text(),
        ]
    )


def learning_text() -> str:
    return f"{digits_text(RESULTS)}\n\n{plots.both_grounds('learning curves', LEARNING)}"


def summary_text() -> str:
    """What the README says of speed and of the default."""
    found: Json = json.loads((RESULTS / "accuracy-fashion-ghn2.json").read_text())["test"]
    timed: Json = json.loads((RESULTS / f"accuracy-{BESIDE_SGD}.json").read_text())["test"]  # with nothing beside it
    return (
        f"Time from module to parameters; `fill_` writes every parameter once. {faster_text()} The default GHN takes "
        f"{1000 * timed['seconds']:.0f} ms to give a network that it has never seen an accuracy of "
        f"{found['mean']:.1f} % on Fashion-MNIST (mean over {found['n']} networks)."
    )


# What is made here, between two comments: by page, the name of a section and its text.
SECTIONS: dict[Path, dict[str, Callable[[], str]]] = {
    README: {"summary": summary_text},
    PERFORMANCE: {"bench": bench_text},
    TRAINED: {
        "fashion": lambda: fashion_text(RESULTS),
        "equal": lambda: equal_text(RESULTS),
        "accuracy": learning_text,
        "transfer": lambda: transfer_text(RESULTS),
        "properties": lambda: properties_text(RESULTS),
        "predicted": lambda: predicted_text(RESULTS),
        "measured": lambda: f"{measured_text(RESULTS)}\n\n{plots.both_grounds('bars of the rows as published', BARS)}",
    },
}


def updated(page: Path) -> str:
    """A page with the sections that are made here."""
    text = page.read_text()
    for name, make in SECTIONS[page].items():
        begin, end = f"<!-- {name}: made by bench/report.py -->", f"<!-- /{name} -->"
        made = f"{begin}\n\n{make()}\n\n{end}"
        text, count = re.subn(f"{re.escape(begin)}.*?{re.escape(end)}", lambda _, made=made: made, text, flags=re.S)  # type: ignore[misc]
        assert count == 1, f"{page} has no place for {begin}"
    return text


def main() -> None:
    for page in SECTIONS:
        page.write_text(updated(page))
    if "--without-plot" not in sys.argv:
        for plot, draw in PLOTS.items():
            plots.save(plot, draw)


if __name__ == "__main__":
    main()
