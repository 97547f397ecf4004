"""Forwards that look at values: of random numbers, constants, integers among the inputs, parameters and features."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.forked import Forked, script
from helpers.models import Net
from helpers.traced import IMAGE, conv
from torch import Tensor, nn

import ghnfast
from ghnfast import ArchGraph, TraceError


def ops(forward: Callable[..., Any], **settings: Any) -> list[str]:
    """The primitives of a model with one convolution, `m.a`."""
    if not {"input_shape", "example_inputs"} & settings.keys():
        settings["input_shape"] = IMAGE
    return ghnfast.trace(Net(forward, a=conv(3, 8)), **settings).ops


# Random numbers -----------------------------------------------------------------------------------------------------

DEPTH = 6


class Skipping(nn.Module):
    """Layers that are run where `run(module)` says so."""

    def __init__(self, run: Callable[[nn.Module], Any]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(DEPTH))
        self.head = nn.Linear(8, 3)
        self.run = run

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            if self.run(self):
                x = x + layer(x)
        return self.head(x)


DROPS: dict[str, Callable[[nn.Module], Any]] = {
    "rand, skip": lambda m: not (m.training and torch.rand(1) < 0.5),
    "rand, keep": lambda m: torch.rand(1) > 0.5,
    "rand, item": lambda m: torch.rand(()).item() < 0.2,
    "randn": lambda m: torch.randn(1) > 0,
    "uniform_": lambda m: torch.empty(1).uniform_() < 0.4,
    "uniform_ in a range": lambda m: torch.empty(1).uniform_(-1, 1) > 0.1,
    "bernoulli": lambda m: torch.bernoulli(torch.tensor(0.5)),
    "bernoulli_": lambda m: torch.empty(1).bernoulli_(0.1),
    "randint": lambda m: torch.randint(0, 2, (1,)),
    "randint, one bound": lambda m: torch.randint(2, (1,)) == 0,
    "random.random": lambda m: random.random() < 0.1,
    "random.random, skip": lambda m: not random.random() < 0.9,
    "random.uniform": lambda m: random.uniform(0, 2) > 1.5,
    "random.randint": lambda m: random.randint(0, 1),
    "random.randrange": lambda m: random.randrange(10) == 0,
    "random.choice": lambda m: random.choice([True, False]),
    "random.choices": lambda m: random.choices([True, False])[0],
    "random.gauss": lambda m: random.gauss(0, 1) > 0,
    "random.getrandbits": lambda m: random.getrandbits(1),
    "numpy rand": lambda m: np.random.rand() > 0.3,
    "numpy uniform": lambda m: np.random.uniform(0, 1) < 0.3,
    "numpy binomial": lambda m: np.random.binomial(1, 0.5),
    "numpy randint": lambda m: np.random.randint(2),
    "numpy choice": lambda m: np.random.choice([0, 1], p=[0.9, 0.1]),
    "numpy generator": lambda m: np.random.default_rng().random() < 0.5,
}


@pytest.mark.parametrize("seed", [0, 7])
@pytest.mark.parametrize("name", DROPS)
def test_layers_that_are_dropped_by_chance_are_all_there(name: str, seed: int) -> None:
    torch.manual_seed(seed), random.seed(seed), np.random.seed(seed)
    graph = ghnfast.trace(Skipping(DROPS[name]), input_shape=(8,))
    assert not graph.skipped
    assert graph.ops.count("conv") == DEPTH + 1


def test_layers_that_are_always_skipped_stay_out() -> None:
    """A draw has a value that it could have: below zero is none."""
    graph = ghnfast.trace(Skipping(lambda m: torch.rand(1) < 0.0), input_shape=(8,))
    assert graph.ops == ["input", "conv", "bias"]


def test_lines_that_draw_in_opposite_senses() -> None:
    model = Skipping(lambda m: torch.rand(1) < 0.5 and not torch.rand(1) < 0.5 and random.random() > 0.1)
    assert not ghnfast.trace(model, input_shape=(8,)).skipped


@pytest.mark.parametrize(
    "draw", [lambda: random.random() > 0.5, lambda: torch.rand(1) < 0.5, lambda: torch.rand(1) > 0.5]
)
def test_loop_that_draws_until_it_fits_ends(draw: Callable[[], Any]) -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        while draw():
            x = x + 1
        return m.a(x)

    assert ops(forward) == ["input", "conv"]


def drawing(m: Any, x: Tensor) -> Tensor:
    """Draws from every generator that there is."""
    random.random(), random.gauss(0, 1), random.shuffle([1, 2, 3])
    np.random.rand(), np.random.standard_normal(3), np.random.permutation(4)
    torch.rand(3), torch.randperm(4), torch.randn_like(torch.ones(3)), torch.normal(0.0, 1.0, (2,))
    torch.multinomial(torch.ones(3), 1), F.gumbel_softmax(torch.ones(3)), torch.empty(3).exponential_()
    x = x * F.dropout(torch.ones(3, 1, 1)) + torch.rand_like(x) + torch.empty_like(x).normal_()
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    return m.a(F.dropout(x))


def on_numbers(m: Any, x: Tensor) -> Tensor:
    return drawing(m, x) if bool(x.isfinite().all()) else x


def numbers(count: int) -> list[float]:
    found = []
    for _ in range(count):
        found += [float(torch.rand(1)), random.random(), float(np.random.rand()), random.gauss(0, 1)]
        found.append(float(F.dropout(torch.ones(16)).sum()))
    return found


def seed_all() -> None:
    torch.manual_seed(0), random.seed(0), np.random.seed(0)


BESIDE = """
import sys, threading
sys.path[:0] = {path!r}
import ghnfast, test_values
from helpers.models import Net
model, seen = Net(test_values.{forward}, a=test_values.conv(3, 8)), []
test_values.seed_all()
expected = test_values.numbers(2000)
test_values.seed_all()
thread = threading.Thread(target=lambda: seen.extend(test_values.numbers(2000)))
thread.start()
traces = 0
while thread.is_alive() or not traces:
    ghnfast.trace(model, input_shape=test_values.IMAGE)
    traces += 1
thread.join()
print([index for index, (one, two) in enumerate(zip(seen, expected)) if one != two][:5], len(seen) - len(expected))
"""


@pytest.mark.parametrize("forward", ["drawing", "on_numbers"])
def test_random_numbers_of_another_thread_are_what_they_would_have_been(forward: str) -> None:
    """In a process of its own, where no thread of another test draws as well."""
    process = Forked(script, BESIDE.format(path=[str(Path(__file__).parent), *sys.path], forward=forward))
    assert process.wait() == 0, process.stderr()
    assert process.stdout() == "[] 0\n"


def test_functions_of_random_and_numpy_are_put_back() -> None:
    before = random.random, np.random.rand, np.random.default_rng, torch.manual_seed
    ghnfast.trace(Net(drawing, a=conv(3, 8)), input_shape=IMAGE)
    with pytest.raises(TraceError):
        ghnfast.trace(Net(lambda m, x: 1 / 0, a=conv(3, 8)), input_shape=IMAGE)
    assert (random.random, np.random.rand, np.random.default_rng, torch.manual_seed) == before


# Constants, and integers among the inputs ---------------------------------------------------------------------------

CONSTANTS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "fill by a tensor": lambda m, x: m.a(x) + x.new_full((8, 16, 16), torch.tensor(2.0)),  # type: ignore[arg-type]
    "ones where the input is": lambda m, x: m.a(x) if torch.ones(1, device=x.device).all() else x,
    "created by the input": lambda m, x: m.a(x) if x.new_ones(2).sum() == 2 else x,
    "zeros like the input": lambda m, x: m.a(x) if not torch.zeros_like(x).any() else x,
    "filled in place": lambda m, x: m.a(x) if x.new_empty(3).fill_(2).prod().item() == 8 else x,
    "range": lambda m, x: m.a(x)[:, torch.arange(8, device=x.device) % 2 == 0],
    "mask": lambda m, x: m.a(x)[:, :, torch.ones(16, 16, device=x.device).tril().bool()],
    "mask in a write": lambda m, x: m.a(x).index_put_((torch.tensor(0),), torch.tensor(0.0)),
    "moved to the input": lambda m, x: m.a(x) if (torch.tensor([3.0]).to(x) > 1).item() else x,
    "moved by type": lambda m, x: m.a(x) if torch.tensor([3]).type_as(x).float().cpu().item() > 1 else x,
    "devices": lambda m, x: m.a(x) if not x.is_cuda and x.device == m.a.weight.device and x.get_device() < 0 else x,
    "a device's type": lambda m, x: m.a(x) if torch.zeros(1, device=x.device.type).numel() else x,
    "written with features": lambda m, x: m.a(x.new_zeros(x.shape).copy_(x)),
}


@pytest.mark.parametrize("name", CONSTANTS)
def test_constants_are_known(name: str) -> None:
    graph = ghnfast.trace(Net(CONSTANTS[name], a=conv(3, 8)), input_shape=IMAGE)
    assert graph.ops == ["input", "conv"]
    assert graph.ran_on_numbers is None


def test_default_device_leaves_constants_known() -> None:
    model = Net(lambda m, x: m.a(x) if torch.ones(2).sum() == 2 else x, a=conv(3, 8))
    with torch.device("meta"):
        assert ghnfast.trace(model, input_shape=IMAGE).ops == ["input", "conv"]


def test_buffers_moved_to_the_input_are_known() -> None:
    model = Net(lambda m, x: m.a(x) if (m.b.to(x) > 1).all() else x, a=conv(3, 8), b=torch.full((2,), 3))
    assert ghnfast.trace(model, input_shape=IMAGE).ran_on_numbers is None


def test_constant_mask_by_a_buffer() -> None:
    model = Net(lambda m, x: m.b(m.a(x)[:, m.keep]), a=conv(3, 8), b=conv(3, 5), keep=torch.arange(8) > 4)
    assert ghnfast.trace(model, input_shape=IMAGE).ops == ["input", "conv", "conv"]


class Tokens(nn.Module):
    """A language model that looks at its mask, as those of transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.q = nn.Embedding(50, 8), nn.Linear(8, 8, bias=False)

    def forward(self, ids: Tensor, attention_mask: Tensor) -> Tensor:
        if attention_mask.dim() == 2 and not attention_mask.all():
            keep = (1.0 - attention_mask[:, None, :].float()) * torch.finfo(torch.float32).min
        else:
            keep = torch.zeros(1)
        lengths = attention_mask.sum(-1).tolist()
        x = self.q(self.table(ids))
        return (x @ x.transpose(1, 2) + keep).softmax(-1)[:, : max(lengths)] @ x


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.bool, torch.uint8])
def test_masks_are_known_and_are_no_features(dtype: torch.dtype) -> None:
    mask = torch.ones(2, 6).to(dtype)
    mask[0, 4:] = 0
    inputs = {"ids": torch.zeros(2, 6, dtype=torch.int64), "attention_mask": mask}
    graph = ghnfast.trace(Tokens(), example_inputs=inputs)
    assert graph.ops == ["input", "conv", "msa"]
    assert graph.ran_on_numbers is None


def test_edges_of_a_graph_network_are_known() -> None:
    def forward(m: Any, x: Tensor, edge_index: Tensor) -> Tensor:
        nodes = int(edge_index.max()) + 1
        messages = m.a(x)[edge_index[0]]
        return m.b(torch.zeros(nodes, 8).index_add_(0, edge_index[1], messages)[:nodes])

    model = Net(forward, a=nn.Linear(4, 8), b=nn.Linear(8, 2))
    graph = ghnfast.trace(model, example_inputs=(torch.rand(5, 4), torch.tensor([[0, 1, 2, 3], [1, 2, 3, 4]])))
    assert graph.ops == ["input", "conv", "bias", "conv", "bias"]
    assert graph.ran_on_numbers is None


# Parameters ---------------------------------------------------------------------------------------------------------

CHOICES: dict[str, Callable[[Any], int]] = {
    "argmax": lambda m: int(m.alphas.argmax()),
    "softmax and item": lambda m: F.softmax(m.alphas, 0).argmax(-1).item(),  # type: ignore[dict-item,return-value]
    "topk": lambda m: m.alphas.topk(1)[1].tolist()[0],
    "comparison": lambda m: next(i for i, alpha in enumerate(m.alphas) if alpha > 0.5),
    "numpy": lambda m: int(m.alphas.detach().numpy().argmax()),
    "nonzero": lambda m: int((m.alphas > 0.5).nonzero()[0]),
}


@pytest.mark.parametrize("name", CHOICES)
def test_path_chosen_by_parameters(name: str) -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        return (m.a, m.b)[CHOICES[name](m)](x)

    alphas = nn.Parameter(torch.tensor([0.1, 0.9]))
    graph = ghnfast.trace(Net(forward, a=conv(3, 8), b=conv(3, 8), alphas=alphas), input_shape=IMAGE)
    assert graph.params == [None, "b.weight"]
    assert graph.ran_on_numbers is None


# Features -----------------------------------------------------------------------------------------------------------


def is_fine(x: Tensor) -> bool:
    return bool(x.isfinite().all())


def experts(m: Any, x: Tensor) -> Tensor:
    """A mixture of experts: each reads the tokens that chose it."""
    tokens = m.a(x).flatten(2).transpose(1, 2).flatten(0, 1)
    weights, chosen = m.gate(tokens).softmax(-1).topk(1)
    result = torch.zeros_like(tokens)
    for index, expert in enumerate((m.first, m.second)):
        rows = (chosen == index).any(-1).nonzero().flatten()
        if rows.numel():
            result[rows] += weights[rows] * expert(tokens[rows])
    return result


READS: dict[str, Callable[[Any, Tensor], Any]] = {
    "assertion": lambda m, x: m.a(x) if is_fine(x) else None,
    "item": lambda m, x: m.a(x) / max(1.0, m.a(x).abs().max().item()),
    "numpy": lambda m, x: m.a(x) if x.numpy().mean() < 100 else x,
    "there and back": lambda m, x: torch.from_numpy(m.a(x).numpy() * 2),
    "array to a tensor": lambda m, x: torch.tensor(m.a(x).numpy()[:1]),
    "nonzero": lambda m, x: (y := m.a(x).flatten())[y.nonzero().flatten()],
    "mask": lambda m, x: (y := m.a(x))[y > 0],
    "mask in a write": lambda m, x: (y := m.a(x)).masked_fill_(y < 0, 0) if is_fine(x) else x,
    "assignment by a mask": lambda m, x: assigned(m.a(x)) if is_fine(x) else x,
    "best of the batch": lambda m, x: (y := m.a(x))[y.sum((1, 2, 3)).argmax()],
    "sorted, unique": lambda m, x: torch.unique(m.a(x)),
    "where": lambda m, x: torch.where(m.a(x) > 0)[0],
    "loop": lambda m, x: looped(m, x),
    "length": lambda m, x: m.a(x) if len(x[x > 0]) > 3 else x,
    "branch": lambda m, x: m.a(x) if x.sum() > -1e9 else x,
    "filled": lambda m, x: m.a(x.new_zeros(2, 3, 16, 16).copy_(x)) if is_fine(x) else x,
    "repeats": lambda m, x: m.a(x).repeat_interleave(torch.tensor([1, 2]), 0),
    "dropout": lambda m, x: F.dropout(m.a(x)) if is_fine(x) else x,
    "batch norm": lambda m, x: F.batch_norm(m.a(x), None, None, training=True) if is_fine(x) else x,
}


def assigned(y: Tensor) -> Tensor:
    y[y < 0] = 0
    return y


def looped(m: Any, x: Tensor) -> Tensor:
    y = m.a(x)
    while y.abs().max() > 1:
        y = y / 2
    return y


@pytest.mark.parametrize("name", READS)
def test_forward_that_reads_features_runs_on_numbers(name: str) -> None:
    model = Net(READS[name], a=conv(3, 8))
    weights, state = model.a.weight.clone(), torch.get_rng_state()
    graph = ghnfast.trace(model, input_shape=IMAGE)
    assert graph.ops == ["input", "conv"]
    assert graph.ran_on_numbers
    assert bool((model.a.weight == weights).all())
    assert torch.equal(torch.get_rng_state(), state)
    _, report = ghnfast.predict(model, ghnfast.GHN(hid=8, max_shape=(8, 8, 3, 3)), input_shape=IMAGE, report=True)
    assert report.ran_on_numbers == graph.ran_on_numbers


def test_mixture_of_experts() -> None:
    model = Net(experts, a=conv(3, 8), gate=nn.Linear(8, 2), first=nn.Linear(8, 8), second=nn.Linear(8, 8))
    graph = ghnfast.trace(model, input_shape=IMAGE)
    assert not graph.skipped
    assert graph.ran_on_numbers


def test_hook_that_reads_features() -> None:
    seen: list[float] = []
    model = nn.Sequential(conv(3, 8), nn.BatchNorm2d(8), nn.ReLU())
    model[0].register_forward_hook(lambda module, given, made: seen.append(made.abs().max().item()))
    graph = ghnfast.trace(model, input_shape=IMAGE)
    assert graph.ops == ["input", "conv", "bn"]
    assert seen
    assert model[1].num_batches_tracked == 0
    assert model[1].running_mean.count_nonzero() == 0


def test_tensors_of_a_model_on_the_meta_device() -> None:
    with torch.device("meta"):
        model = Net(lambda m, x: m.a(x) if is_fine(x) else x, a=conv(3, 8))
    assert ghnfast.trace(model, input_shape=IMAGE).ops == ["input", "conv"]


def test_values_that_are_given_are_used_where_random_ones_fail() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        assert x.min() == 5, "all of it is five"
        return m.a(x)

    assert ops(forward, example_inputs=(torch.full((2, *IMAGE), 5.0),)) == ["input", "conv"]
    with pytest.raises(TraceError, match="all of it is five"):
        ops(forward)


def test_same_graph_as_without_reading() -> None:
    import torchvision

    model = torchvision.models.resnet18(weights=None)
    plain = ghnfast.trace(model, input_shape=(3, 64, 64))
    seen: list[float] = []
    model.layer2.register_forward_hook(lambda module, given, made: seen.append(float(made.sum())))
    read = ghnfast.trace(model, input_shape=(3, 64, 64))
    assert read.ran_on_numbers
    assert (read.ops, read.params) == (plain.ops, plain.params)
    assert np.array_equal(read.edges, plain.edges)


@pytest.mark.parametrize("kind", ["script", "vmap"])
def test_what_cannot_be_seen_into_is_an_error_on_numbers_too(kind: str) -> None:
    def swish(x: Tensor) -> Tensor:
        return x * torch.sigmoid(x)

    hidden = torch.jit.script(swish) if kind == "script" else torch.vmap(swish)
    with pytest.raises(TraceError, match="cannot be followed"):
        ops(lambda m, x: hidden(m.a(x)) if is_fine(x) else x)


GRAPH = """
import sys, torch
sys.path[:0] = {path!r}
from helpers.models import Net
import ghnfast
from ghnfast.training import optimizers
from test_values import Skipping
ghnfast.trace(Skipping(lambda m: torch.rand(1) < 0.5), input_shape=(8,))
for kind in optimizers.Adam, optimizers.AdamW, optimizers.SGD:
    made = kind([torch.nn.Parameter(torch.ones(3))], 0.1)
    made.zero_grad()
    made.load_state_dict(made.state_dict())
    made.step()
print([name for name in sys.modules if name.split(".")[0] == "sympy" or name.startswith("torch._dynamo.")])
"""


def test_draws_and_optimizers_import_no_compiler() -> None:
    path = [str(Path(__file__).parent), *(entry for entry in sys.path if "tests" in entry)]
    process = Forked(script, GRAPH.format(path=path))
    assert process.wait() == 0, process.stderr()
    assert process.stdout() == "[]\n"


def describes(graph: ArchGraph) -> tuple[Any, ...]:
    return graph.ops, graph.params, graph.edges.tolist()


def test_eight_threads_trace_what_one_does() -> None:
    from concurrent.futures import ThreadPoolExecutor

    models = [Skipping(DROPS[name]) for name in DROPS] + [Net(READS[name], a=conv(3, 8)) for name in ("item", "mask")]
    shapes = [(8,) if isinstance(model, Skipping) else IMAGE for model in models]
    alone = [describes(ghnfast.trace(m, input_shape=s)) for m, s in zip(models, shapes, strict=True)]
    with ThreadPoolExecutor(8) as pool:
        together = list(
            pool.map(
                lambda pair: describes(ghnfast.trace(pair[0], input_shape=pair[1])), zip(models, shapes, strict=True)
            )
        )
    assert together == alone


def test_what_was_not_taken_on_random_numbers_is_said_so() -> None:
    model = Net(
        lambda m, x: m.a(x) if x.mean() < 100 else m.b(x), a=nn.Conv2d(3, 8, 3), b=nn.Conv2d(3, 8, 3, bias=False)
    )
    graph = ghnfast.trace(model, input_shape=(3, 8, 8))
    assert graph.skipped == {"b.weight": "the forward did not use it on random numbers"}
