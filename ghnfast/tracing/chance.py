"""Random numbers during a trace: private ones, whose values decide nothing by luck.

A trace draws from no generator that anybody else may be drawing from: torch functions get a generator of the trace, and
what the thread that traces asks of `random` and `numpy.random` is answered by generators of the trace as well.

A forward may drop layers by chance. Draws are therefore extreme, and those of one place in the code (a site) are alike:
`Chance.levels` says whether they are the highest or the lowest number that the draw could give. The values are ones
that could be drawn, so that what is impossible stays impossible; `ghnfast.trace` tries both where a forward reads them,
and keeps what uses more of the parameters.
"""

from __future__ import annotations

import random
import sys
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

Site = tuple[str, int, int]
# A loop that draws until a number fits must come to its end: from here on, the draws of a site are ordinary ones.
MOST_EXTREMES = 4096
SEED = 0
HIGHEST = 1 - 2.0**-53  # of the numbers that `random.random` gives


class Chance:
    """The random numbers of one run of a forward.

    Attributes:
        levels: whether the draws of a site are as high as can be, rather than as low; `default` for sites that are not
            in it. None gives ordinary draws.
        read: the sites whose draws the forward's Python code has seen, in order.
    """

    def __init__(self, levels: Mapping[Site, bool] | None = None, default: bool | None = True) -> None:
        self.levels, self.default = dict(levels or {}), default
        self.read: dict[Site, None] = {}
        self.draws: Counter[Site] = Counter()
        self.made: tuple[torch.Generator, random.Random, np.random.RandomState] | None = None

    @property
    def generators(self) -> tuple[torch.Generator, random.Random, np.random.RandomState]:
        """Those of torch, `random` and numpy, made where a forward draws: few do."""
        if self.made is None:
            self.made = torch.Generator().manual_seed(SEED), random.Random(SEED), np.random.RandomState(SEED)
        return self.made

    def level(self, site: Site) -> bool | None:
        """Whether the next draw of a site is high (True), low (False) or an ordinary one (None)."""
        self.draws[site] += 1
        return self.levels.get(site, self.default) if self.draws[site] <= MOST_EXTREMES else None


def calling_site(frame: FrameType | None) -> Site:
    """The file, line and instruction that draws: the first above this frame that is neither torch's nor ours."""
    while frame is not None and frame.f_back is not None:
        name = frame.f_globals.get("__name__", "")
        if not name.startswith("torch.") and not name.startswith("ghnfast.tracing") and name != "torch":
            break
        frame = frame.f_back
    return ("", 0, 0) if frame is None else (frame.f_code.co_filename, frame.f_lineno, frame.f_lasti)


class PrivateRandom(TorchDispatchMode):
    """Operators that draw random numbers draw them from this generator."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self.generator = generator

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: the compiler, which torch would import for that, never sees a trace (`ghnfast.tracing.forward.eager`)."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.call(func, args, kwargs or {})

    def call(self, func: Any, args: Any, kwargs: Any) -> Any:
        if torch.Tag.nondeterministic_seeded not in func.tags or on_meta(args):
            return func(*args, **kwargs)
        seeded = with_generator(func)
        if seeded is not None:
            return seeded(*args, **{**kwargs, "generator": self.generator})
        replacement = WITHOUT_GENERATOR.get(func.overloadpacket.__name__)
        return func(*args, **kwargs) if replacement is None else replacement(self.generator, *args, **kwargs)


def on_meta(args: Any) -> bool:
    return bool(args) and isinstance(args[0], Tensor) and args[0].is_meta


def with_generator(func: Any) -> Any:
    """The overload of an operator that takes a generator, or None."""
    if any(argument.name == "generator" for argument in func._schema.arguments):
        return func
    name = func._overloadname
    wanted = "generator" if name in ("", "default") else f"{name}_generator"
    return getattr(func.overloadpacket, wanted, None) if wanted in func.overloadpacket.overloads() else None


def like(method: str) -> Callable[..., Tensor]:
    """`rand_like` and its kind by the method that fills a tensor."""

    def fill(generator: torch.Generator, tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        kwargs = {key: value for key, value in kwargs.items() if key in ("dtype", "layout", "device") and value}
        made: Tensor = getattr(torch.empty_like(tensor, **kwargs), method)(*args, generator=generator)
        return made

    return fill


def no_dropout(generator: torch.Generator, tensor: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
    return tensor.clone(), torch.ones_like(tensor, dtype=torch.bool)


WITHOUT_GENERATOR: dict[str, Callable[..., Any]] = {
    "rand_like": like("uniform_"),
    "randn_like": like("normal_"),
    "randint_like": lambda generator, tensor, *bounds, **kwargs: like("random_")(
        generator, tensor, *(bounds if len(bounds) == 2 else (0, *bounds)), **kwargs
    ),
    "native_dropout": no_dropout,
}


# What the thread that traces asks of `random` and `numpy.random` -----------------------------------------------------

# The chance of each thread that is tracing, by its identifier. An interrupted trace leaves nothing behind: with the
# trace's own reference the entry goes.
ACTIVE: weakref.WeakValueDictionary[int, Chance] = weakref.WeakValueDictionary()


@contextmanager
def private_draws(chance: Chance) -> Iterator[None]:
    """Within it, this thread's draws from `random` and `numpy.random` come from `chance`, and others' as ever.

    There is no lock, which an interrupt from the keyboard could leave locked: every step is one that may be repeated.
    """
    thread = threading.get_ident()
    before = ACTIVE.get(thread)
    try:
        ACTIVE[thread] = chance
        replace_functions()
        yield
    finally:
        # An interrupted trace may come here late, when its generator is collected: then another has taken its place.
        if ACTIVE.get(thread) is chance:
            if before is None:
                ACTIVE.pop(thread, None)
            else:
                ACTIVE[thread] = before
        if not ACTIVE:
            put_functions_back()
        if ACTIVE:  # another thread has begun meanwhile
            replace_functions()


def replace_functions() -> None:
    for place, name, original, own in DRAWS:
        if getattr(place, name, None) is original:  # somebody else's replacement stays
            setattr(place, name, own)


def put_functions_back() -> None:
    for place, name, original, own in DRAWS:
        if getattr(place, name, None) is own:
            setattr(place, name, original)


def dispatched(original: Callable[..., Any], own: Callable[..., Any]) -> Callable[..., Any]:
    """A function of `random` or numpy that asks the thread's own generators where it is tracing."""

    def draw(*args: Any, **kwargs: Any) -> Any:
        chance = ACTIVE.get(threading.get_ident())
        return original(*args, **kwargs) if chance is None else own(chance, *args, **kwargs)

    draw.__name__ = getattr(original, "__name__", "draw")
    return draw


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


FAR = 4.0  # standard deviations: as far from the mean as a normal draw is likely to be
PYTHON, NUMPY = 1, 2
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

    NAMES: ClassVar = {name: name for name in ("random", "uniform", "normal", "standard_normal", "binomial", "choice")}

    def __init__(self, chance: Chance, seed: Any = None) -> None:
        self.chance = chance
        self.generator = np.random.Generator(np.random.MT19937(SEED if seed is None else seed))
        self.seeded = seed is not None

    def __getattr__(self, name: str) -> Any:
        legacy = {**self.NAMES, "integers": "randint"}.get(name)
        if self.seeded or legacy is None:
            return getattr(self.generator, name)
        draw = extreme(NUMPY, legacy, *EXTREMES[NUMPY, legacy])
        return lambda *args, **kwargs: draw(self.chance, *args, **kwargs)


def all_draws() -> list[tuple[Any, str, Any, Callable[..., Any]]]:
    """(module, name, function, what stands for it during a trace) of each function that draws."""
    found = []
    hidden: Any = np.random.mtrand._rand
    for place, module, owner in ((random, PYTHON, random._inst), (np.random, NUMPY, hidden)):
        for name in dir(place):
            original = getattr(place, name)
            if getattr(original, "__self__", None) is not owner and name not in ("ranf", "sample", "seed"):
                continue
            high_and_low = EXTREMES.get((module, name))
            method = {"ranf": "random_sample", "sample": "random_sample"}.get(name, name) if module == NUMPY else name
            own = ordinary(module, method) if high_and_low is None else extreme(module, method, *high_and_low)
            found.append((place, name, original, dispatched(original, own)))
    found.append((np.random, "default_rng", np.random.default_rng, dispatched(np.random.default_rng, Drawing)))
    seed = torch.manual_seed
    for place in (torch, torch.random):
        if getattr(place, "manual_seed", None) is seed:
            own = dispatched(seed, lambda chance, value: chance.generators[0].manual_seed(int(value) % (1 << 63)))
            found.append((place, "manual_seed", seed, own))
    return found


DRAWS = all_draws()
