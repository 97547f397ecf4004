"""ghnfast/tracing/chance.py: what a forward draws, and what it sets, is a trace's own."""

from __future__ import annotations

import functools
import random
import sys
import threading
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch._dynamo  # wraps torch's functions that seed, when ghnfast has been imported
import torch.nn.functional as F
from helpers.models import Net
from helpers.traced import IMAGE
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import ghnfast
from ghnfast.tracing import private
from ghnfast.tracing.chance import HIGHEST, Chance
from ghnfast.tracing.private import private_draws

ONES = torch.ones(2, 8, 4, 4)


def forked() -> Tensor:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        return torch.rand(3)


def saved() -> None:
    state = torch.get_rng_state()
    torch.random.seed()
    torch.rand(3)
    torch.random.set_rng_state(state)
    assert torch.initial_seed() == 0


# What forwards do besides drawing from a function that has a rule.
DRAWS: dict[str, Callable[[], Any]] = {
    "layers": lambda: [nn.Linear(3, 4), nn.Embedding(3, 4), nn.LSTM(3, 4), nn.MultiheadAttention(4, 2)],
    "initialization": lambda: [
        nn.init.normal_(torch.empty(5, 5)), nn.init.uniform_(torch.empty(5, 5)), nn.init.orthogonal_(torch.empty(5, 5)),
        nn.init.kaiming_uniform_(torch.empty(5, 5)), nn.init.trunc_normal_(torch.empty(5, 5)),
    ],
    "whoever's generator": lambda: [
        torch.rand(3, generator=torch.default_generator), torch.poisson(ONES, generator=torch.default_generator),
        nn.init.normal_(torch.empty(3), generator=torch.default_generator),
    ],
    "recurrent layers": lambda: [
        nn.LSTM(4, 4, 2, dropout=0.5)(ONES[0]), nn.GRU(4, 4, 2, dropout=0.5)(ONES[0]),
        nn.RNN(4, 4, 2, dropout=0.5)(ONES[0]),
    ],
    "attention": lambda: F.scaled_dot_product_attention(ONES, ONES, ONES, dropout_p=0.5),
    "dropout": lambda: torch.native_dropout(ONES, 0.5, True),
    "distributions": lambda: [
        torch.distributions.Gamma(ONES, ONES).sample(), torch.distributions.Dirichlet(ONES).sample(),
        torch.distributions.Binomial(3, ONES / 2).sample(),
    ],
    "activations": lambda: [F.rrelu(-ONES, training=True), torch.rrelu_(-ONES, training=True)],
    "outputs that are given": lambda: [
        torch.rand(3, out=torch.empty(3)), torch.randperm(5, out=torch.empty(5, dtype=torch.int64)),
        torch.randint(5, (3,), out=torch.empty(3, dtype=torch.int64)),
    ],
    "a fork": forked,
    "a state": saved,
    "seeds": lambda: [torch.seed(), torch.random.manual_seed(3), np.random.seed(1), random.seed(2)],
    "GPUs": lambda: [seed() for seed in (torch.cuda.seed, torch.cuda.seed_all, torch.cuda.random.seed)],
    "checkpoints": lambda: checkpoint(F.relu, ONES, use_reentrant=False),
}  # fmt: skip


@pytest.mark.parametrize("on_numbers", [False, True])
@pytest.mark.parametrize("name", DRAWS)
def test_global_generators_are_left_alone(name: str, on_numbers: bool) -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        if on_numbers:
            bool(x.isfinite().all())
        DRAWS[name]()
        return m.a(x)

    model = Net(forward, a=nn.Conv2d(3, 8, 3))
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    graph = ghnfast.trace(model, input_shape=IMAGE)
    assert (graph.ran_on_numbers is not None) is on_numbers
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before[1:]


@pytest.mark.parametrize("name", ["a fork", "a state"])
def test_states_that_a_forward_puts_back_do_not_undo_what_another_thread_draws(name: str) -> None:
    """Another thread draws between the two: the same numbers would come again."""
    drawn: list[float] = []

    def forward(m: Any, x: Tensor) -> Tensor:
        inside = threading.Thread(target=lambda: drawn.append(float(torch.rand(()))))
        state = torch.get_rng_state()
        with torch.random.fork_rng() if name == "a fork" else torch.no_grad():
            inside.start()
            inside.join()
        if name == "a state":
            torch.set_rng_state(state)
        return m.a(x)

    model = Net(forward, a=nn.Conv2d(3, 8, 3))
    with torch.random.fork_rng():
        torch.manual_seed(5)
        ghnfast.trace(model, input_shape=IMAGE)
        drawn.append(float(torch.rand(())))
        torch.manual_seed(5)
        assert drawn == [float(torch.rand(())) for _ in drawn]
        assert len(drawn) > 1


def test_a_trace_that_ends_takes_nothing_from_one_that_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one begins while this one puts the functions back, and draws when they are."""
    began, back, drew = threading.Event(), threading.Event(), threading.Event()
    put_back = private.put_functions_back

    def other() -> None:
        with private_draws(Chance()):
            began.set()
            back.wait(10)
            random.random(), np.random.rand(), torch.manual_seed(9)
            drew.set()

    thread = threading.Thread(target=other)

    def slowly() -> None:
        if threading.current_thread() is thread:
            return put_back()
        thread.start()
        began.wait(0.3)
        put_back()
        back.set()
        drew.wait(0.3)

    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    with monkeypatch.context() as patch, private_draws(Chance()):
        patch.setattr(private, "put_functions_back", slowly)
        replaced = random.random
    with private_draws(Chance()):
        pass
    thread.join()
    assert replaced is not random.random
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before[1:]


@pytest.mark.parametrize("module", [torch, torch.random])
def test_seeds_are_private_where_their_function_was_wrapped(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As torch's compiler wraps some when it is imported: before a trace, or in the middle of one."""

    def wrap() -> None:
        seed = module.manual_seed
        monkeypatch.setattr(module, "manual_seed", functools.wraps(seed)(lambda *args: seed(*args)))

    def forward(m: Any, x: Tensor) -> Tensor:
        wrap()
        module.manual_seed(3)
        return m.a(x)

    plain = Net(lambda m, x: m.a(x) if module.manual_seed(2) else x, a=nn.Conv2d(3, 8, 3))
    model = Net(forward, a=nn.Conv2d(3, 8, 3))
    before = torch.get_rng_state()
    wrap()
    wrapped = module.manual_seed
    ghnfast.trace(plain, input_shape=IMAGE)
    assert module.manual_seed is wrapped
    for _ in range(2):
        ghnfast.trace(model, input_shape=IMAGE)
    assert torch.equal(torch.get_rng_state(), before)
    with torch.random.fork_rng():
        module.manual_seed(7)
        assert torch.equal(torch.get_rng_state(), torch.Generator().manual_seed(7).get_state())


def test_replacements_of_others_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "random", lambda: 0.25)
    model = Net(lambda m, x: m.a(x) if random.random() == 0.25 else x, a=nn.Conv2d(3, 8, 3))
    assert ghnfast.trace(model, input_shape=IMAGE).ops == ["input", "conv", "bias"]
    assert random.random() == 0.25


def test_a_lock_that_is_never_released_stops_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a thread that an interrupt ended in the middle, or that a fork left behind."""
    monkeypatch.setattr(private.one_at_a_time, "patience", 0.01)
    # Its own: a test that interrupts traces may have left the process's with this thread.
    monkeypatch.setattr(private.one_at_a_time, "lock", lost := threading.RLock())
    thread = threading.Thread(target=lost.acquire)
    thread.start()
    thread.join()
    with private_draws(Chance()):
        assert random.random() == HIGHEST
    assert private.one_at_a_time.lock is not lost
    assert random.random.__self__ is random._inst  # type: ignore[attr-defined]


# A model's file, and another that it imports: what draws is known there by names of their own.
HELPING = """
from random import random as coin
def drop(): return coin() < 0.5
"""
DRAWING = """
import random
import helping, numpy as np
from random import choice, random as coin, randrange, uniform
from numpy.random import default_rng, rand, randint
from torch import manual_seed
from helping import drop
python, legacy, new = random.Random(4), np.random.RandomState(4), np.random.default_rng(4)
GENERATORS = python.getstate, lambda: legacy.get_state()[1].tolist(), lambda: new.bit_generator.state
"""
BY_NAME = [
    "coin() < 0.5", "randrange(4) == 0", "choice([False, True])", "uniform(0, 2) < 1", "rand() < 0.5",
    "randint(0, 2) == 0", "default_rng().random() < 0.5", "manual_seed(4) is None", "drop()", "helping.drop()",
    "python.random() < 0.5", "legacy.rand() < 0.5", "new.random() < 0.5",
]  # fmt: skip


@pytest.mark.parametrize("on_numbers", [False, True])
@pytest.mark.parametrize("draw", BY_NAME)
def test_what_was_imported_by_name_draws_privately(
    draw: str, on_numbers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model uses its second layer by luck; a trace leaves nobody's numbers changed, and depends on none."""
    for name, source in ("helping", HELPING), ("drawing", DRAWING):
        monkeypatch.setitem(sys.modules, name, made := types.ModuleType(name))
        exec(source, vars(made))
    names = vars(made)
    exec(
        f"def forward(m, x): return m.a(x if {draw} and {not on_numbers or 'bool((x == x).all())'} else m.b(x))", names
    )
    imported = dict(names)
    model = Net(names["forward"], a=nn.Conv2d(3, 8, 3), b=nn.Conv2d(3, 3, 1))

    def states() -> list[Any]:
        own = [state() for state in names["GENERATORS"]]
        return [random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist(), repr(own)]

    before = states()
    for _ in range(4):
        assert ghnfast.trace(model, input_shape=IMAGE).ops == ["input", "conv", "bias", "conv", "bias"]
    assert states() == before
    assert names == imported
