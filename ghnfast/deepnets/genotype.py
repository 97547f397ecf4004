"""Genotypes: which operations connect the states of a cell.

Source: Liu et al., "DARTS: Differentiable Architecture Search", ICLR 2019, Section 2.1; the operations are those of
Knyazev et al., "Parameter Prediction for Unseen Deep Architectures", NeurIPS 2021, Section 3.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import index
from typing import Any

from ..errors import ConfigError

Edge = tuple[str, int]

# The published sampler draws operations by their position in this list, so the order is part of the search space.
OPERATIONS: tuple[str, ...] = (
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
    "conv_1x1",
    "conv_7x1_1x7",
    "conv_3x3",
    "conv_5x5",
    "conv_7x7",
    "msa",
    "cse",
)

MOST_STEPS = 32  # of a cell; published ones have up to 4 (DARTS) and 10
FIELDS = ("normal", "normal_concat", "reduce", "reduce_concat")


@dataclass(frozen=True, init=False, repr=False)
class Genotype:
    """The two cells of a network, a normal one and a reduction one (DARTS, Section 2.1).

    A cell starts from two states, 0 and 1: the outputs of the cell before the previous one, and of the previous one.
    Step `i` adds state `2 + i`, the sum of two edges; an edge is an operation applied to an earlier state. The
    cell's output concatenates some of the added states along the channels. Frozen, hashable, equal where the cells are.

    Args:
        normal: the edges of the normal cell, `(operation, state)` pairs, two for each step. Operations are those of
            `OPERATIONS`; the states that step `i` can read are `0 .. 1 + i`.
        normal_concat: the states that the normal cell concatenates, each in `2 .. 1 + steps`.
        reduce: the edges of the reduction cell, as `normal`.
        reduce_concat: the states that the reduction cell concatenates.

    Raises:
        ConfigError: an unknown operation, a state out of range, an odd number of edges, or an empty list.
    """

    normal: tuple[Edge, ...]
    normal_concat: tuple[int, ...]
    reduce: tuple[Edge, ...]
    reduce_concat: tuple[int, ...]

    def __init__(
        self,
        normal: Iterable[Sequence[str | int]],
        normal_concat: Iterable[int],
        reduce: Iterable[Sequence[str | int]],
        reduce_concat: Iterable[int],
    ) -> None:
        # A frozen dataclass refuses plain assignment, also from its own constructor.
        for name, edges, concat in (("normal", normal, normal_concat), ("reduce", reduce, reduce_concat)):
            parsed = parse_edges(name, edges)
            object.__setattr__(self, name, parsed)
            object.__setattr__(self, f"{name}_concat", parse_concat(f"{name}_concat", concat, len(parsed) // 2))

    @classmethod
    def of(cls, source: Genotype | Mapping[str, Any] | tuple[Any, ...] | str) -> Genotype:
        """A genotype as it is, from a mapping with the four fields (`as_dict`), or from text.

        Args:
            source: text is a name of `GENOTYPES`, or the notation of DARTS, which `repr` gives:
                `Genotype(normal=[('sep_conv_3x3', 0), ...], normal_concat=range(2, 6), reduce=..., ...)`; a named tuple
                with the four fields, as the code of DARTS and of its successors has them, is taken as a mapping.

        Raises:
            ConfigError: the mapping misses a field or has another one, a field is invalid, or the text is neither a
                name nor a genotype.
        """
        if isinstance(source, cls):
            return source
        if isinstance(source, str):
            name = source.strip()
            return GENOTYPES[name] if name in GENOTYPES else cls(**fields_in(source))
        if isinstance(source, tuple) and hasattr(source, "_asdict"):
            source = source._asdict()
        if not isinstance(source, Mapping) or set(source) != set(FIELDS):
            given = sorted(map(str, source)) if isinstance(source, Mapping) else type(source).__name__
            raise ConfigError(f"a genotype is a Genotype or a mapping with the keys {', '.join(FIELDS)}, given {given}")
        return cls(**source)

    def as_dict(self) -> dict[str, Any]:
        """The four fields as lists, as JSON files hold them."""
        return {
            "normal": [list(edge) for edge in self.normal],
            "normal_concat": list(self.normal_concat),
            "reduce": [list(edge) for edge in self.reduce],
            "reduce_concat": list(self.reduce_concat),
        }

    def __repr__(self) -> str:
        fields = (f"{name}={list(getattr(self, name))}" for name in FIELDS)
        return f"Genotype({', '.join(fields)})"

    def uses(self, operation: str) -> bool:
        """Whether one of the two cells has an edge with this operation."""
        return any(name == operation for name, _ in self.normal + self.reduce)


def fields_in(text: str) -> dict[str, Any]:
    """The fields of a genotype in the notation of DARTS. Only literals and ranges are read; nothing is run."""
    try:
        call = ast.parse(text.strip(), mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.func.id != "Genotype":
            raise ConfigError("it is not a call of Genotype")
        names = [*FIELDS[: len(call.args)], *(keyword.arg for keyword in call.keywords)]
        if sorted(map(str, names)) != sorted(FIELDS):
            raise ConfigError(f"its fields are {', '.join(map(str, names))}")
        values = [*call.args, *(keyword.value for keyword in call.keywords)]
        return {str(name): literal(value) for name, value in zip(names, values, strict=True)}
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise ConfigError(
            f"{text!r:.100} is no genotype ({error}); accepted are {', '.join(GENOTYPES)}, and "
            "Genotype(normal=[(operation, state), ...], normal_concat=[...], reduce=[...], reduce_concat=[...])"
        ) from error


def literal(value: ast.expr) -> Any:
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "range":
        bounds = [ast.literal_eval(bound) for bound in value.args]
        if value.keywords or not all(isinstance(bound, int) and abs(bound) <= 1000 for bound in bounds):
            raise ConfigError("a range has small whole numbers")
        return list(range(*bounds))
    return ast.literal_eval(value)


def parse_edges(field: str, edges: Iterable[Sequence[str | int]]) -> tuple[Edge, ...]:
    given = listed(field, edges)
    if not given or len(given) % 2:
        raise ConfigError(f"{field}: a cell has two edges for each of its steps, one or more, given {len(given)} edges")
    if len(given) > 2 * MOST_STEPS:
        raise ConfigError(f"{field}: a cell of a genotype has at most {MOST_STEPS} steps, given {len(given)} edges")
    return tuple(parse_edge(f"{field}[{position}]", edge, position // 2) for position, edge in enumerate(given))


def listed(field: str, given: Iterable[Any]) -> list[Any]:
    if isinstance(given, (str, bytes, Mapping)) or not isinstance(given, Iterable):
        raise ConfigError(f"{field} of a genotype is a list, given {given!r:.80}")
    return list(given)


def parse_edge(place: str, edge: Sequence[str | int], step: int) -> Edge:
    if isinstance(edge, str) or not isinstance(edge, Sequence) or len(edge) != 2:
        raise ConfigError(f"{place}: an edge is a pair (operation, state), given {edge!r}")
    name, state = edge
    if not isinstance(name, str) or name not in OPERATIONS:
        raise ConfigError(f"{place}: unknown operation {name!r}, accepted are {', '.join(OPERATIONS)}")
    return str(name), parse_state(place, state, first=0, last=1 + step, reader=f"step {step} can read")


def parse_concat(field: str, concat: Iterable[int], steps: int) -> tuple[int, ...]:
    last = 1 + steps
    states = tuple(
        parse_state(field, state, first=2, last=last, reader="the cell can concatenate")
        for state in listed(field, concat)
    )
    if not states:
        raise ConfigError(f"{field}: the cell must concatenate one or more of states 2 to {last}, given none")
    if len(states) > MOST_STEPS:
        raise ConfigError(f"{field}: the cell can concatenate at most {MOST_STEPS} states, given {len(states)}")
    return states


def parse_state(place: str, state: object, *, first: int, last: int, reader: str) -> int:
    try:
        number = index(state)  # type: ignore[arg-type]  # any object: the error below names what is no integer
    except TypeError:
        number = -1
    if not first <= number <= last:
        raise ConfigError(f"{place}: {reader} states {first} to {last}, given {state!r}")
    return number


# Published genotypes by name: DARTS (Liu et al., ICLR 2019), P-DARTS (Chen et al., ICCV 2019), and a vision transformer
# (Knyazev et al., NeurIPS 2021).
GENOTYPES: dict[str, Genotype] = {
    "DARTS": Genotype(
        normal=[
            ("sep_conv_3x3", 0), ("sep_conv_3x3", 1), ("sep_conv_3x3", 0), ("sep_conv_3x3", 1),
            ("sep_conv_3x3", 1), ("skip_connect", 0), ("skip_connect", 0), ("dil_conv_3x3", 2),
        ],
        normal_concat=range(2, 6),
        reduce=[
            ("max_pool_3x3", 0), ("max_pool_3x3", 1), ("skip_connect", 2), ("max_pool_3x3", 1),
            ("max_pool_3x3", 0), ("skip_connect", 2), ("skip_connect", 2), ("max_pool_3x3", 1),
        ],
        reduce_concat=range(2, 6),
    ),
    "PDARTS": Genotype(
        normal=[
            ("skip_connect", 0), ("dil_conv_3x3", 1), ("skip_connect", 0), ("sep_conv_3x3", 1),
            ("sep_conv_3x3", 1), ("sep_conv_3x3", 3), ("sep_conv_3x3", 0), ("dil_conv_5x5", 4),
        ],
        normal_concat=range(2, 6),
        reduce=[
            ("avg_pool_3x3", 0), ("sep_conv_5x5", 1), ("sep_conv_3x3", 0), ("dil_conv_5x5", 2),
            ("max_pool_3x3", 0), ("dil_conv_3x3", 1), ("dil_conv_3x3", 1), ("dil_conv_5x5", 3),
        ],
        reduce_concat=range(2, 6),
    ),
    "ViT": Genotype([("none", 0), ("msa", 1)], [2], [("none", 0), ("avg_pool_3x3", 1)], [2]),
}  # fmt: skip
