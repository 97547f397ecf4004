"""On a GPU: predicting models and batches of networks, training, the last step's bandwidth, what launch parameters do.

Times of kernels are medians of `triton.testing.do_bench`, which empties the cache between runs; others are host times
up to the end of the work.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import triton
from helpers.graphs import sweep_weights, tensors_of
from helpers.models import torchvision_model
from sizes import size
from torch import nn
from turns import versus

import ghnfast
from ghnfast.deepnets import DeepNets1M
from ghnfast.graph import ArchGraph, GraphBatch
from ghnfast.graph.batch import batch_of
from ghnfast.kernels import decode as decode_kernels
from ghnfast.kernels import decode_tables as table_kernels
from ghnfast.kernels import sweep as sweep_kernels
from ghnfast.kernels.decode_tables import Tables
from ghnfast.kernels.products import multiply
from ghnfast.nn.attending import Attending
from ghnfast.nn.names import with_published_names
from ghnfast.nn.native import state_of
from ghnfast.nn.sweep import GatedSweep
from ghnfast.ops.decode import DecodeSource, decode_into_op, memory_table
from ghnfast.ops.decode import triton_tables as decode_tables
from ghnfast.ops.sweep import gated_sweep, naive_gated_sweep, triton_tables
from ghnfast.prediction import prepare
from ghnfast.prediction.plan import decoded_part
from ghnfast.profiling import Stage, fill
from ghnfast.tracing.members import members_of
from ghnfast.training import Trainer, make_config
from ghnfast.training.networks import MetaBatches, main_logits

MODELS = ("resnet50", "densenet121", "vgg16", "vit_b_16", "convnext_tiny", "wide_resnet50_2", "mobilenet_v3_large")
OTHERS = (
    "alexnet", "convnext_base", "densenet201", "efficientnet_b0", "efficientnet_v2_s", "googlenet", "mnasnet1_0",
    "mobilenet_v2", "regnet_y_8gf", "resnet18", "resnext50_32x4d", "shufflenet_v2_x1_0", "squeezenet1_1",
)  # fmt: skip
KINDS = ("cpp", "cuda", "triton")  # of sweeps
LARGE = ("resnet50", "convnext_tiny", "wide_resnet50_2", "vit_b_16", "vgg16")  # over 20 million parameters
TRAINING_NODES = size(2200, 200)  # of eight networks, as meta-batches have


@pytest.fixture(scope="module")
def gpu_ghn() -> ghnfast.GHN:
    return ghnfast.GHN().eval().cuda()


def finished(function: Stage) -> Stage:
    """The same, and wait for the GPU."""

    def run() -> None:
        with torch.no_grad():
            function()
        torch.cuda.synchronize()

    return run


@contextmanager
def asking_for(variable: str, value: str) -> Iterator[None]:
    os.environ[variable] = value
    try:
        yield
    finally:
        del os.environ[variable]


def kernel_ms(function: Stage) -> float:
    with torch.no_grad():
        return float(triton.testing.do_bench(function, return_mode="median"))


@pytest.mark.parametrize("name", size(MODELS, MODELS[-1:]))
def test_model(benchmark: Any, gpu_ghn: ghnfast.GHN, name: str) -> None:
    """Main: everything, with the graph given. `device`: from embedding to parameters."""
    ghn = gpu_ghn
    model = torchvision_model(name).cuda()
    graph = ghnfast.trace(model)
    batch = GraphBatch([graph])
    job = prepare([model], [members_of(model)], batch, True, ghn.request)
    with torch.no_grad():
        states = ghn.node_states(batch, None)
        source = ghn.decode_source(states, job.layout, None)

    def given() -> None:
        ghn.predict(model, graph=graph)

    def on_device() -> None:
        made, last = ghn.source(batch, job.layout, job.direct_memory)
        job.write(made, ghn.name, ghn.precision, last)

    def plain() -> None:
        with asking_for("GHNFAST_BACKEND", "torch"):
            given()

    others = {
        "trace": lambda: ghnfast.trace(model),
        "graph": lambda: triton_tables(GraphBatch([graph]).topology(), states.device),
        "states": lambda: ghn.node_states(batch, None),
        "source": lambda: ghn.decode_source(states, job.layout, None),
        "decode": lambda: job.write(source, ghn.name, ghn.precision),
        "device": on_device,
        "plain": plain,
        "fill": fill(model),
    }
    benchmark.extra_info.update(
        model=name, nodes=len(graph), parameters=sum(parameter.numel() for parameter in model.parameters())
    )
    versus(benchmark, finished(given), {name: finished(function) for name, function in others.items()}, 25)


def predicting_by(ghn: ghnfast.GHN, models: list[nn.Module], graphs: list[ArchGraph], kind: str) -> Stage:
    """Predicts models from their graphs, with a kind of sweep."""

    def run() -> None:
        with asking_for("GHNFAST_SWEEP", kind):
            ghn.predict(models, graph=graphs)

    return finished(run)


def by_each_kind(
    benchmark: Any, ghn: ghnfast.GHN, models: list[nn.Module], graphs: list[ArchGraph], rounds: int
) -> dict[str, float]:
    """Main: as `chosen_sweep` chooses; and with each kind of sweep. Returns median seconds."""
    others = {kind: predicting_by(ghn, models, graphs, kind) for kind in KINDS}
    return versus(benchmark, finished(lambda: ghn.predict(models, graph=graphs)), others, rounds)


@pytest.mark.parametrize("name", size(OTHERS, OTHERS[-1:]))
def test_other_models(benchmark: Any, gpu_ghn: ghnfast.GHN, name: str) -> None:
    """Main: everything, with the graph given."""
    model = torchvision_model(name).cuda()
    graph = ghnfast.trace(model)
    benchmark.extra_info.update(
        model=name, nodes=len(graph), parameters=sum(parameter.numel() for parameter in model.parameters())
    )
    versus(benchmark, finished(lambda: gpu_ghn.predict(model, graph=graph)), {"fill": finished(fill(model))}, 25)


@pytest.mark.parametrize("name", size(("resnet50", "densenet121"), ("squeezenet1_1",)))
@pytest.mark.parametrize("kind", ["gpu_ghn", "gpu_ghn3"])
def test_one_after_the_other(benchmark: Any, request: pytest.FixtureRequest, kind: str, name: str) -> None:
    """Predictions of one model from its graph with nothing in between, as in a loop over models of one architecture."""
    ghn: ghnfast.GHN = request.getfixturevalue(kind)
    model = torchvision_model(name).cuda()
    graph = ghnfast.trace(model)
    run = finished(lambda: ghn.predict(model, graph=graph))
    for _ in range(size(20, 4)):
        run()
    versus(benchmark, run, {}, size(300, 3))
    benchmark.extra_info.update(model=name, ghn={"gpu_ghn": "GHN-2", "gpu_ghn3": "GHN-3-T"}[kind], nodes=len(graph))


@pytest.mark.parametrize("count", size((8, 64), (2,)))
def test_values(benchmark: Any, count: int) -> None:
    """The parameters of test networks of DeepNets-1M as tensors, from their graphs, without models or gradients."""
    ghn, split = ghnfast.GHN(num_classes=10).eval().cuda(), DeepNets1M("test")
    graphs = [split[index].graph for index in range(count)]
    medians = versus(benchmark, finished(lambda: ghn(graphs)), {}, 15)
    benchmark.extra_info.update(graphs=count, us_a_network=medians["main"] * 1e6 / count)


@pytest.mark.parametrize("count", size((8, 64), (2,)))
def test_batches(benchmark: Any, count: int) -> None:
    """Test networks of DeepNets-1M, predicted as one batch from their graphs."""
    ghn, split = ghnfast.GHN(num_classes=10).eval().cuda(), DeepNets1M("test")
    models: list[nn.Module] = [split[index].build().cuda() for index in range(count)]
    graphs = [split[index].graph for index in range(count)]
    medians = by_each_kind(benchmark, ghn, models, graphs, 15)
    benchmark.extra_info.update(
        graphs=count, nodes=sum(map(len, graphs)),
        us_a_network={name: value * 1e6 / count for name, value in medians.items()},
    )  # fmt: skip


@pytest.fixture(scope="module")
def gpu_ghn3() -> ghnfast.GHN:
    """A GHN-3-T."""
    return ghnfast.GHN(hypernet="graphormer", hid=64, layers=3, heads=8, max_shape=(64, 64, 16, 16)).eval().cuda()


@pytest.mark.parametrize("name", size(("resnet50", "densenet121"), ("squeezenet1_1",)))
def test_ghn3(benchmark: Any, gpu_ghn3: ghnfast.GHN, name: str) -> None:
    """Main: everything, with the graph given. `attending`: its layers alone, from embedding to the last, replayed as a
    CUDA graph, of which only the device's time is left."""
    model = torchvision_model(name).cuda()
    graph = ghnfast.trace(model)
    others = {"fill": finished(fill(model))}
    versus(benchmark, finished(lambda: gpu_ghn3.predict(model, graph=graph)), others, 25)
    benchmark.extra_info.update(model=name, nodes=len(graph), states_ms=states_ms(gpu_ghn3, model, graph))


def replayed_ms(function: Stage) -> float:
    """Milliseconds of the device alone: what a captured CUDA graph takes."""
    with torch.no_grad():
        function()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            function()
        return kernel_ms(graph.replay)


@torch.no_grad()
def states_ms(ghn: ghnfast.GHN, model: nn.Module, graph: ArchGraph) -> float:
    """Of the layers of a GHN-3, from the embedding on."""
    batch = batch_of([graph])
    layout = prepare([model], [members_of(model)], batch, True, ghn.request).layout
    ghn.source(batch, layout)
    own = members_of(ghn)
    device = ghn.device_form.of(ghn, own, state_of(own.parameters))
    assert device is not None
    assert device.weights is not None
    forward = device.forward(batch, layout, None)
    plan, room = forward.plan, forward.room()
    attending = Attending(
        device.widths, plan.places, device.weights, forward.form.first, forward.prepared.table, forward.tables,
        plan.indices, plan.tables, forward.launches, room.beside[0],
    )  # fmt: skip
    return replayed_ms(lambda: attending.run(room.scratch, room.status))


@pytest.mark.parametrize("name", ["resnet50", "densenet121"])
def test_reference(benchmark: Any, gpu_ghn: ghnfast.GHN, name: str) -> None:
    """Beside the published implementation on the same GPU, both from their graphs, where PYTHONPATH has it."""
    pytest.importorskip("ppuda", reason="the published implementation (ppuda) is not on PYTHONPATH")
    from ppuda.deepnets1m.graph import Graph
    from ppuda.deepnets1m.graph import GraphBatch as ReferenceBatch
    from ppuda.ghn.nn import GHN as ReferenceGHN
    from test_reference import make, quietly

    reference = ReferenceGHN(**gpu_ghn.config, debug_level=0).eval().cuda()
    reference.load_state_dict(with_published_names(gpu_ghn.state_dict()))
    ours, theirs = make(name).cuda(), make(name).cuda().eval()
    graph = ghnfast.trace(ours)
    reference_graph = quietly(lambda: ReferenceBatch([Graph(make(name), ve_cutoff=50)]))

    def published() -> None:
        quietly(reference, theirs, reference_graph.to_device("cuda"))

    others = {"reference": finished(published)}
    medians = versus(benchmark, finished(lambda: gpu_ghn.predict(ours, graph=graph)), others, 9)
    benchmark.extra_info.update(model=name, times_faster=medians["reference"] / medians["main"])


@pytest.mark.parametrize("name", ["resnet50", "densenet121"])
def test_reference_ghn3(benchmark: Any, gpu_ghn3: ghnfast.GHN, name: str) -> None:
    """GHN-3-T beside its published code on the same GPU, which traces its graph each time; ours traces, too."""
    pytest.importorskip("ghn3", reason="the published code of GHN-3 (ghn3) is not on PYTHONPATH")
    from ghn3.nn import GHN3
    from test_reference import make, quietly

    reference = GHN3(**{**gpu_ghn3.config, "hypernet": "gatedgnn"}, debug_level=0).eval().cuda()
    reference.load_state_dict(with_published_names(gpu_ghn3.state_dict()))
    ours, theirs = make(name).cuda(), make(name).cuda().eval()
    others = {"reference": finished(lambda: quietly(reference, theirs))}
    medians = versus(benchmark, finished(lambda: gpu_ghn3.predict(ours)), others, 7)
    benchmark.extra_info.update(model=name, times_faster=medians["reference"] / medians["main"])


def graphs_of_about(nodes: int, count: int) -> list[ghnfast.ArchGraph]:
    """Training networks with so many nodes each, as far as the first 400 have them."""
    split = DeepNets1M("train")
    graphs = sorted((split[index].graph for index in range(400)), key=lambda graph: abs(len(graph) - nodes))
    return graphs[:count]


def training_graphs() -> list[ghnfast.ArchGraph]:
    """Eight training networks with at least `TRAINING_NODES` nodes."""
    graphs = graphs_of_about(280 * TRAINING_NODES // 2200, 8)
    assert sum(map(len, graphs)) >= TRAINING_NODES
    return graphs


@pytest.fixture(scope="module")
def training_problem() -> tuple[torch.Tensor, Any, Any]:
    topology = GraphBatch(training_graphs()).topology()
    weights = sweep_weights(32, True, device="cuda")
    for weight in tensors_of(weights):
        weight.detach_().requires_grad_()
    return torch.randn(len(topology.levels), 32, device="cuda", requires_grad=True), topology, weights


def test_training_batch(benchmark: Any, training_problem: Any) -> None:
    """The sweep forward and backward."""
    states, topology, weights = training_problem
    inputs = [states, *tensors_of(weights)]

    def ours() -> None:
        torch.autograd.grad(gated_sweep(states, topology, weights).sum(), inputs)
        torch.cuda.synchronize()

    def plain() -> None:
        torch.autograd.grad(naive_gated_sweep(states, topology, weights).sum(), inputs)
        torch.cuda.synchronize()

    versus(benchmark, ours, {"plain": plain}, 15)
    with torch.enable_grad():
        both = float(triton.testing.do_bench(ours, return_mode="median"))
    forward = kernel_ms(lambda: gated_sweep(states, topology, weights))
    benchmark.extra_info.update(nodes=len(states), graphs=8, both_ms=both, forward_ms=forward)


def test_training_step(benchmark: Any) -> None:
    """A step of the published size, of random images, beside the same networks' own forward and backward passes."""
    count, images, turns = size(8, 1), 64, 3
    config = make_config({"data": "mnist5k", "meta_batch": count, "batch_size": images, "device": "cuda"})
    split = DeepNets1M("train")
    networks = MetaBatches(split, count, config.max_nodes, config.seed)
    trainer = Trainer(ghnfast.GHN(num_classes=10).cuda(), config, config.steps)
    pixels, labels = torch.randn(images, 3, 32, 32, device="cuda"), torch.randint(10, (images,), device="cuda")
    batches = itertools.cycle([networks[step] for step in range(turns)])
    own = itertools.cycle([[split[i].build().cuda().train() for i in networks.chosen(step)] for step in range(turns)])

    def ours() -> None:
        trainer.train_step(pixels, labels, next(batches))
        torch.cuda.synchronize()

    def plain() -> None:
        for network in next(own):
            F.cross_entropy(main_logits(network(pixels)), labels).backward()
        torch.cuda.synchronize()

    for _ in range(turns):  # convolutions of new shapes are looked up
        ours()
        plain()
    medians = versus(benchmark, ours, {"plain": plain}, 3 * turns)
    benchmark.extra_info.update(networks=count, images=images, ratio=medians["main"] / medians["plain"])


@pytest.mark.parametrize("nodes", size((30, 130, 300, 600), (30,)))
@pytest.mark.parametrize("graphs", size((1, 2, 4, 8), (1,)))
def test_choice_of_sweeps(benchmark: Any, graphs: int, nodes: int) -> None:
    """What `ghnfast.ops.sweep.chosen_sweep` is to be decided by: predictions of one batch of small networks from their
    graphs, by each kind of sweep that it can choose; and of the kernels alone, also a step of the longest chain (the
    goal of "cuda" is 0.3 us on an H100)."""
    ghn, split = ghnfast.GHN(num_classes=10).eval().cuda(), DeepNets1M("train")
    chosen = sorted(range(400), key=lambda index: abs(split.num_nodes(index) - nodes))[:graphs]
    own = [split[index].graph for index in chosen]
    models: list[nn.Module] = [split[index].build().cuda() for index in chosen]
    medians = by_each_kind(benchmark, ghn, models, own, 15)
    batch = GraphBatch(own)
    assert isinstance(ghn.gnn, GatedSweep)
    topology, weights = batch.topology(), ghn.gnn.weights
    with torch.no_grad():
        initial = ghn.initial_states(batch)
    kernels_ms = {}
    for kind in KINDS[1:]:
        with asking_for("GHNFAST_SWEEP", kind):
            kernels_ms[kind] = kernel_ms(lambda: gated_sweep(initial, topology, weights))
    steps = 2 * topology.largest
    benchmark.extra_info.update(
        graphs=graphs, nodes=len(initial), largest=topology.largest,
        fastest=min(KINDS, key=medians.__getitem__),
        kernels_ms=kernels_ms, us_a_step={kind: ms * 1e3 / steps for kind, ms in kernels_ms.items()},
    )  # fmt: skip


def writing(ghn: ghnfast.GHN, name: str) -> tuple[Stage, Stage, int]:
    """The last step for a model without the preparation of the host, its stores alone, and its bytes."""
    model = torchvision_model(name).cuda()
    batch = GraphBatch([ghnfast.trace(model)])
    job = prepare([model], [members_of(model)], batch, True, ghn.request)
    with torch.no_grad():
        source = DecodeSource(*ghn.decode_source(ghn.node_states(batch, None), job.layout, None))
    outputs = list(map(decoded_part, job.forms, job.parameters))
    targets = job.layout.targets
    tables = decode_tables(targets, memory_table(outputs, targets.table), source.hidden)
    fine = torch.full((), 2**31 - 1, dtype=torch.int32, device="cuda")
    kernel_tables = Tables(*tables)

    def whole() -> None:
        decode_into_op(*source, tables, outputs, "float32")

    products = multiply(*source, kernel_tables, "float32")

    def store() -> None:
        decode_kernels.store(products, source.blocks, products, kernel_tables, fine, False)

    return whole, store, sum(output.numel() * output.element_size() for output in outputs)


def copy_rate() -> float:
    """Bytes copied a second from the card's memory to the card's memory (each is read once and written once)."""
    a, b = (torch.empty(1 << 28, device="cuda") for _ in range(2))
    return a.numel() * 4 / (kernel_ms(lambda: b.copy_(a)) / 1e3)


@pytest.mark.parametrize("name", size(LARGE, ("squeezenet1_1",)))
def test_bandwidth(benchmark: Any, gpu_ghn: ghnfast.GHN, name: str) -> None:
    """Bytes of parameters written a second, beside bytes copied a second."""
    whole, store, size = writing(gpu_ghn, name)
    benchmark.pedantic(finished(whole), rounds=5, warmup_rounds=1)
    whole_ms, store_ms, copied = kernel_ms(whole), kernel_ms(store), copy_rate()
    benchmark.extra_info.update(
        model=name,
        bytes=size,
        whole_ms=whole_ms,
        store_ms=store_ms,
        written_per_second=size / whole_ms * 1e3,
        copied_per_second=copied,
        share_of_copy=size / whole_ms * 1e3 / copied,
        # Of all traffic of a copy, which reads as much as it writes.
        share_of_traffic=size / whole_ms * 1e3 / (2 * copied),
    )


@pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
def test_precision(benchmark: Any, gpu_ghn: ghnfast.GHN, precision: str) -> None:
    """The largest error of a kernel's parameters, relative to their largest value."""
    exact, rounded = (torchvision_model("resnet50").cuda() for _ in range(2))
    gpu_ghn.predict(exact)
    gpu_ghn.precision = precision
    try:
        benchmark.pedantic(finished(lambda: gpu_ghn.predict(rounded)), rounds=5)
    finally:
        gpu_ghn.precision = "float32"
    errors = [
        float((a - b).abs().max() / a.abs().max())
        for a, b in ((p.detach(), q.detach()) for p, q in zip(exact.parameters(), rounded.parameters(), strict=True))
        if a.ndim == 4 and a.shape[2] > 1
    ]
    benchmark.extra_info.update(model="resnet50", precision=precision, largest_error=max(errors))


@pytest.mark.parametrize("warps", size((4, 8, 16), (4,)))
@pytest.mark.parametrize("gathered", size((2048, 4096, 8192), (2048,)))
def test_tuning_of_sweeps(
    benchmark: Any, training_problem: Any, monkeypatch: pytest.MonkeyPatch, warps: int, gathered: int
) -> None:
    states, topology, weights = training_problem
    registers = min(255, 65536 // (32 * warps))
    monkeypatch.setattr(sweep_kernels, "OPTIONS", {**sweep_kernels.OPTIONS, "num_warps": warps, "maxnreg": registers})
    monkeypatch.setattr(sweep_kernels, "GATHERED", gathered)
    inputs = [states, *tensors_of(weights)]

    def both() -> None:
        torch.autograd.grad(gated_sweep(states, topology, weights).sum(), inputs)

    benchmark.pedantic(both, rounds=3, warmup_rounds=1)
    with torch.enable_grad():
        both_ms = float(triton.testing.do_bench(both, return_mode="median"))
    forward_ms = kernel_ms(lambda: gated_sweep(states, topology, weights))
    benchmark.extra_info.update(warps=warps, gathered=gathered, both_ms=both_ms, forward_ms=forward_ms)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (None, None),
        *(("STORED", stored) for stored in size((1 << 12, 1 << 15), ())),
        *(("TILE", elements) for elements in size((128, 256, 1024), (128,))),
        *(("REPEATS", count) for count in size((2, 8), ())),
        *(("num_warps", count) for count in size((2, 8), (2,))),
    ],
)
@pytest.mark.parametrize("model", size(("resnet50", "vgg16"), ("squeezenet1_1",)))
def test_tuning_of_decoding(
    benchmark: Any,
    gpu_ghn: ghnfast.GHN,
    monkeypatch: pytest.MonkeyPatch,
    model: str,
    name: str | None,
    value: int | None,
) -> None:
    """One parameter away from those that are used."""
    if name == "num_warps":
        monkeypatch.setattr(decode_kernels, "OPTIONS", {**decode_kernels.OPTIONS, "num_warps": value})
    elif name is not None:
        monkeypatch.setattr(decode_kernels if name == "REPEATS" else table_kernels, name, value)
    whole, store, size = writing(gpu_ghn, model)
    benchmark.pedantic(finished(whole), rounds=3, warmup_rounds=1)
    benchmark.extra_info.update(
        model=model, parameter=name, value=value, bytes=size, whole_ms=kernel_ms(whole), store_ms=kernel_ms(store)
    )
