"""What the thread that traces asks of `random` and `numpy.random`, and how it sets torch's generators; its caches.

Functions of these modules are replaced while a trace runs: the replacement asks the trace's own generators where the
thread that calls it is tracing, and is what it replaces for all others.
"""

from __future__ import annotations

import random
import sys
import threading
import weakref
from collections.abc import Callable, Iterable
from types import FunctionType
from typing import Any, ClassVar

import numpy as np
import torch

from ..randomness import SEED
from .cached import Entries, put_cache_back, replace_cache
from .chance import FAR, HIGHEST, Chance, calling_site

# What a draw that is as high or as low as can be gives ----------------------------------------------------------------


def ordinary(module: int, name: str) -> Callable[..., Any]:
    return lambda chance, *args, **kwargs: getattr(chance.generators[module], name)(*args, **kwargs)


def extreme(module: int, name: str, high: Callable[..., Any], low: Callable[..., Any]) -> Callable[..., Any]:
    """A draw that is as high or as low as its arguments allow."""

    def draw(chance: Chance, *args: Any, **kwargs: Any) -> Any:
        site = calling_site(sys._getframe(2))
        chance.read.setdefault(site)
        level = chance.level(site)
        if level is None:
            return getattr(chance.generators[module], name)(*args, **kwargs)
        return (high if level else low)(*args, **kwargs)

    return draw


def shaped(value: Any, size: Any) -> Any:
    return value if size is None else np.full(size, value)


def bounds(low: int, high: int | None) -> tuple[int, int]:
    return (0, low) if high is None else (low, high)


def chosen(index: int) -> Callable[..., Any]:
    """`numpy.random.choice`, of the first or last element."""

    def choose(a: Any, size: Any = None, replace: bool = True, p: Any = None, **kwargs: Any) -> Any:
        items = np.arange(a) if isinstance(a, (int, np.integer)) else np.asarray(a)
        possible = items if p is None else items[np.flatnonzero(np.asarray(p) > 0)]
        return shaped(possible[index], size)

    return choose


def one_of(index: int) -> Callable[..., Any]:
    """`random.choices`, of the first or last element."""
    return lambda population, weights=None, *, cum_weights=None, k=1: [population[index]] * k


def normal(side: int) -> Callable[..., Any]:
    return lambda loc=0.0, scale=1.0, size=None: shaped(loc + side * FAR * scale, size)


PYTHON, NUMPY = 1, 2
GENERATORS = random.Random, np.random.Generator, np.random.RandomState
EXTREMES: dict[tuple[int, str], tuple[Callable[..., Any], Callable[..., Any]]] = {
    (PYTHON, "random"): (lambda: HIGHEST, lambda: 0.0),
    (PYTHON, "uniform"): (lambda a, b: a + (b - a) * HIGHEST, lambda a, b: a),
    (PYTHON, "randint"): (lambda a, b: b, lambda a, b: a),
    (PYTHON, "randrange"): (
        lambda start, stop=None, step=1: range(*bounds(start, stop), step)[-1],
        lambda start, stop=None, step=1: range(*bounds(start, stop), step)[0],
    ),
    (PYTHON, "getrandbits"): (lambda k: (1 << k) - 1, lambda k: 0),
    (PYTHON, "choice"): (lambda seq: seq[-1], lambda seq: seq[0]),
    (PYTHON, "choices"): (one_of(-1), one_of(0)),
    **{
        (PYTHON, name): (lambda mu=0.0, sigma=1.0: mu + FAR * sigma, lambda mu=0.0, sigma=1.0: mu - FAR * sigma)
        for name in ("gauss", "normalvariate")
    },
    (NUMPY, "choice"): (chosen(-1), chosen(0)),
    (NUMPY, "normal"): (normal(1), normal(-1)),
    (NUMPY, "standard_normal"): (lambda size=None: shaped(FAR, size), lambda size=None: shaped(-FAR, size)),
    (NUMPY, "randn"): (lambda *size: shaped(FAR, size or None), lambda *size: shaped(-FAR, size or None)),
    (NUMPY, "rand"): (lambda *size: shaped(HIGHEST, size or None), lambda *size: shaped(0.0, size or None)),
    **{
        (NUMPY, name): (lambda size=None: shaped(HIGHEST, size), lambda size=None: shaped(0.0, size))
        for name in ("random", "random_sample", "ranf", "sample")
    },
    (NUMPY, "uniform"): (
        lambda low=0.0, high=1.0, size=None: shaped(low + (high - low) * HIGHEST, size),
        lambda low=0.0, high=1.0, size=None: shaped(low, size),
    ),
    (NUMPY, "randint"): (
        lambda low, high=None, size=None, dtype=int: shaped(bounds(low, high)[1] - 1, size),
        lambda low, high=None, size=None, dtype=int: shaped(bounds(low, high)[0], size),
    ),
    (NUMPY, "binomial"): (
        lambda n, p, size=None: shaped(n if p > 0 else 0, size),
        lambda n, p, size=None: shaped(n if p >= 1 else 0, size),
    ),
}


class Drawing:
    """What `numpy.random.default_rng()` gives a forward: a generator whose draws are those of the trace."""

    SHARED = "random", "uniform", "normal", "standard_normal", "binomial", "choice", "rand", "randn", "randint"
    NAMES: ClassVar = {name: name for name in SHARED}

    def __init__(self, chance: Chance, seed: Any = None, *, legacy: bool = False) -> None:
        self.chance = chance
        self.generator: Any = np.random.Generator(np.random.MT19937(SEED if seed is None else seed))
        if legacy:  # what stands for a RandomState
            self.generator = np.random.RandomState(SEED)
        self.seeded = seed is not None

    def __getattr__(self, name: str) -> Any:
        legacy = {**self.NAMES, "integers": "randint", "random_sample": "random"}.get(name)
        if self.seeded or legacy is None:
            return getattr(self.generator, name)
        draw = extreme(NUMPY, legacy, *EXTREMES[NUMPY, legacy])
        return lambda *args, **kwargs: draw(self.chance, *args, **kwargs)


class PythonDrawing:
    """What stands for a `random.Random` that a module keeps: its draws are those of the trace."""

    def __init__(self, chance: Chance) -> None:
        self.chance = chance
        self.generator = random.Random(SEED)

    def __getattr__(self, name: str) -> Any:
        if (PYTHON, name) not in EXTREMES:
            return getattr(self.generator, name)
        draw = extreme(PYTHON, name, *EXTREMES[PYTHON, name])
        return lambda *args, **kwargs: draw(self.chance, *args, **kwargs)


# What saves, sets and restores the state of torch's global generators does so with the trace's, for what it would
# restore is what another thread has drawn from since. A trace draws nothing on a GPU.
fork_rng = torch.random.fork_rng
TORCH_SETTINGS: dict[str, Callable[..., Any]] = {
    "manual_seed": lambda chance, seed: chance.generators[0].manual_seed(int(seed) % (1 << 63)),
    "seed": lambda chance: chance.generators[0].manual_seed(SEED).initial_seed(),
    "initial_seed": lambda chance: chance.generators[0].initial_seed(),
    "get_rng_state": lambda chance: chance.generators[0].get_state(),
    "set_rng_state": lambda chance, new_state: chance.generators[0].set_state(new_state),
    "fork_rng": lambda chance, devices=None, enabled=True, *args, **kwargs: fork_rng((), enabled),
}
CUDA_SETTINGS: dict[str, Callable[..., Any]] = dict.fromkeys(
    ("manual_seed", "manual_seed_all", "seed", "seed_all", "set_rng_state", "set_rng_state_all"),
    lambda chance, *args, **kwargs: None,
)


# What stands for the functions of a module ----------------------------------------------------------------------------


class StandIns:
    """The functions of a module that draw or seed, and what stands for them during a trace.

    functions: the names of the module, and what they name.
    """

    def __init__(self, functions: dict[str, Any]) -> None:
        self.functions = functions
        self.originals: dict[str, Any] = {}
        self.answers: dict[str, Callable[..., Any]] = {}
        self.own: dict[str, Any] = {}

    def add(self, name: str, answer: Callable[..., Any], original: Callable[..., Any]) -> None:
        """Let `answer(chance, ...)` stand for the function of this name in threads that trace."""
        self.answers[name], self.originals[name] = answer, original
        self.own[name] = dispatched(original, answer)

    def borrow(self, generators: bool) -> StandIns:
        """Let stand-ins take the place of what was imported from the modules that draw.

        generators: whether also those take the places of generators, which anybody may have made.
        """
        values = self.functions.values()
        generators = generators and any(issubclass(kind, GENERATORS) for kind in set(map(type, values)))
        if not generators and ANSWERS.keys().isdisjoint(map(identity, values)):  # nearly always
            return self
        for name, value in list(self.functions.items()):
            answer = ANSWERS.get(identity(value))
            if answer is not None:
                self.add(name, answer, value)
            elif generators and isinstance(value, GENERATORS):
                self.originals[name], self.own[name] = value, SharedGenerator(value)
        return self

    def replace(self) -> None:
        for name, own in self.own.items():
            found, original = self.functions.get(name), self.originals[name]
            if found is original:
                self.functions[name] = own
            elif found is not own and found is not None and innermost(found) is innermost(original):
                # Wrapped since (as torch's compiler does when it is imported); any other replacement stays.
                self.add(name, self.answers[name], found)
                self.functions[name] = self.own[name]

    def put_back(self) -> None:
        for name, own in self.own.items():
            if self.functions.get(name) is own:
                self.functions[name] = self.originals[name]


def innermost(function: Any) -> Any:
    """What a function wraps that says so; itself otherwise."""
    while hasattr(function, "__wrapped__"):
        function = function.__wrapped__
    return function


def identity(value: Any) -> int:
    """What a function is known by, whatever has wrapped it since (torch's compiler wraps those that seed)."""
    return id(innermost(value) if type(value) is FunctionType else value)


class SharedGenerator:
    """A generator that code outside of the model may draw from as well: in a thread that traces, one of the trace."""

    def __init__(self, original: Any) -> None:
        self.original = original

    def __getattr__(self, name: str) -> Any:
        chance = ACTIVE.get(threading.get_ident())
        if chance is None:
            return getattr(self.original, name)
        if id(self.original) not in chance.shared:
            chance.shared[id(self.original)] = private_generator(chance, self.original)
        return getattr(chance.shared[id(self.original)], name)


def private_generator(chance: Chance, generator: Any) -> Drawing | PythonDrawing:
    """What a trace draws from in place of a generator of `random` or numpy."""
    if isinstance(generator, random.Random):
        return PythonDrawing(chance)
    return Drawing(chance, legacy=isinstance(generator, np.random.RandomState))


def dispatched(original: Callable[..., Any], own: Callable[..., Any]) -> Callable[..., Any]:
    """A function of `random` or numpy that asks the thread's own generators where it is tracing."""

    def draw(*args: Any, **kwargs: Any) -> Any:
        chance = ACTIVE.get(threading.get_ident())
        return original(*args, **kwargs) if chance is None else own(chance, *args, **kwargs)

    draw.__name__ = getattr(original, "__name__", "draw")
    return draw


def all_stand_ins() -> list[StandIns]:
    python, numpy = StandIns(vars(random)), StandIns(vars(np.random))
    hidden: Any = np.random.mtrand._rand
    for stand_ins, place, owner in ((python, PYTHON, random._inst), (numpy, NUMPY, hidden)):
        for name, original in list(stand_ins.functions.items()):
            if getattr(original, "__self__", None) is not owner and name not in ("ranf", "sample", "seed"):
                continue
            high_and_low = EXTREMES.get((place, name))
            method = "random_sample" if place == NUMPY and name in ("ranf", "sample") else name
            answer = ordinary(place, method) if high_and_low is None else extreme(place, method, *high_and_low)
            stand_ins.add(name, answer, original)
    numpy.add("default_rng", Drawing, np.random.default_rng)
    found = [python, numpy]
    for settings, modules in (TORCH_SETTINGS, (torch.random, torch)), (CUDA_SETTINGS, (torch.cuda.random, torch.cuda)):
        for module in modules:
            found.append(stand_ins := StandIns(vars(module)))
            for name, answer in settings.items():
                if name in stand_ins.functions:
                    stand_ins.add(name, answer, stand_ins.functions[name])
    return found


STAND_INS = all_stand_ins()
# By the function that they answer for.
ANSWERS = {identity(one.originals[name]): answer for one in STAND_INS for name, answer in one.answers.items()}
# Those of the modules whose functions threads that trace may call, while they trace.
BORROWED: list[StandIns] = []

# While threads trace --------------------------------------------------------------------------------------------------

# The chance of each thread that is tracing, by its identifier. An interrupted trace leaves nothing behind: with the
# trace's own reference the entry goes.
ACTIVE: weakref.WeakValueDictionary[int, Chance] = weakref.WeakValueDictionary()


class private_draws:
    """Within it, this thread's draws from `random` and `numpy.random` come from `chance`, and others' as ever.

    So do its settings of torch's global generator. An interrupt from the keyboard may come anywhere: every step is one
    that may be repeated.

    Args:
        namespaces: what modules name whose functions may be called within it: they may have imported what draws. Each
            with whether a generator in it is the model's.
    """

    def __init__(self, chance: Chance, namespaces: Iterable[tuple[dict[str, Any], bool]] = ()) -> None:
        self.chance, self.namespaces, self.thread = chance, namespaces, threading.get_ident()
        self.before = ACTIVE.get(self.thread)

    def __enter__(self) -> None:
        try:
            with one_at_a_time():
                ACTIVE[self.thread] = self.chance
                borrow(self.namespaces)
                replace_functions()
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *error: object) -> None:
        with one_at_a_time():
            if self.before is None:
                ACTIVE.pop(self.thread, None)
            else:
                ACTIVE[self.thread] = self.before
            if not ACTIVE:
                put_functions_back()


class one_at_a_time:
    """One thread replaces the functions, or puts them back, at a time.

    Else one that ends could take them from one that has just begun, whose forward would then draw from, and seed, what
    is everybody's.
    """

    # The same thread may come here again, in the middle: where garbage is collected. Nobody waits for longer than a
    # moment: a thread that was interrupted, or is not there after a fork, may hold the lock for ever.
    lock = threading.RLock()
    patience = 0.5  # seconds; the steps take microseconds

    def __enter__(self) -> None:
        self.own = one_at_a_time.lock
        self.held = self.own.acquire(timeout=self.patience)
        if not self.held:
            one_at_a_time.lock = threading.RLock()

    def __exit__(self, *error: object) -> None:
        if self.held:
            self.own.release()


def own_weights() -> Entries | None:
    """The cache of computed weights of the thread that calls it, where that is tracing."""
    chance = ACTIVE.get(threading.get_ident())
    return None if chance is None else chance.weights


def forget_own_weights(chance: Chance) -> None:
    """Begin with an empty cache of computed weights: a forward that ran before this one computed them for itself."""
    chance.weights.clear()
    with one_at_a_time():
        replace_cache(own_weights)


def borrow(namespaces: Iterable[tuple[dict[str, Any], bool]]) -> None:
    borrowed = {id(stand_ins.functions) for stand_ins in BORROWED}
    for namespace, generators in namespaces:
        if id(namespace) not in borrowed:
            stand_ins = StandIns(namespace).borrow(generators)
            if stand_ins.own:
                BORROWED.append(stand_ins)


def replace_functions() -> None:
    replace_cache(own_weights)
    for stand_ins in (*STAND_INS, *BORROWED):
        stand_ins.replace()


def put_functions_back() -> None:
    put_cache_back()
    for stand_ins in (*STAND_INS, *BORROWED):
        stand_ins.put_back()
    BORROWED.clear()
