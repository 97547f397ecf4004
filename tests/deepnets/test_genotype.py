"""Genotypes as values: equal, hashable, as JSON, as text."""

from __future__ import annotations

import json
import pickle
from collections import namedtuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghnfast.deepnets import GENOTYPES, OPERATIONS, Genotype


@st.composite
def genotypes(draw: st.DrawFn) -> Genotype:
    def cell() -> tuple[list[tuple[str, int]], list[int]]:
        steps = draw(st.integers(1, 4))
        edges = [(draw(st.sampled_from(OPERATIONS)), draw(st.integers(0, 1 + edge // 2))) for edge in range(2 * steps)]
        return edges, draw(st.lists(st.integers(2, 1 + steps), min_size=1, unique=True))

    return Genotype(*cell(), *cell())


@given(genotypes())
def test_every_form_gives_the_same_back(genotype: Genotype) -> None:
    forms = [
        Genotype.of(genotype),
        Genotype.of(genotype.as_dict()),
        Genotype.of(json.loads(json.dumps(genotype.as_dict()))),
        Genotype.of(repr(genotype)),
        pickle.loads(pickle.dumps(genotype)),
    ]
    assert all(form == genotype and hash(form) == hash(genotype) for form in forms)


def test_the_notation_of_darts() -> None:
    text = """Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1)], normal_concat=range(2, 3),
                       reduce=[('max_pool_3x3', 0), ('skip_connect', 1)], reduce_concat=[2])"""
    found = Genotype.of(text)
    assert found.normal == (("sep_conv_3x3", 0), ("sep_conv_3x3", 1))
    assert found.normal_concat == (2,)
    assert Genotype.of(text.replace("normal=", "").replace("normal_concat=", "")) == found


def test_the_named_tuples_of_darts() -> None:
    wanted = GENOTYPES["PDARTS"]
    Named = namedtuple("Named", ["normal", "normal_concat", "reduce", "reduce_concat"])
    given = Named(wanted.normal, range(2, 6), wanted.reduce, range(2, 6))
    assert Genotype.of(given) == Genotype.of(repr(given).replace("Named", "Genotype")) == wanted
    Other = namedtuple("Other", ["normal", "normal_concat"])
    with pytest.raises(ValueError, match="the keys normal"):
        Genotype.of(Other(wanted.normal, [2]))


def test_genotypes_by_name() -> None:
    assert set(GENOTYPES) == {"DARTS", "PDARTS", "ViT"}
    for name, genotype in GENOTYPES.items():
        assert Genotype.of(name) is Genotype.of(f" {name}\n") is genotype
    assert GENOTYPES["ViT"].uses("msa")
    assert len(GENOTYPES["PDARTS"].reduce) == len(GENOTYPES["DARTS"].normal) == 8


@pytest.mark.parametrize(
    "text",
    [
        "DART",
        "",
        "Genotype(",
        "Genotype(normal=[('conv_1x1', 0)], normal_concat=[2])",
        "__import__('os').system('true')",
        "Genotype(normal=open('x'), normal_concat=[2], reduce=[], reduce_concat=[2])",
        "Genotype(normal=[('conv_1x1', 0), ('conv_1x1', 9)], normal_concat=[2], reduce=[('cse', 0), ('cse', 1)], "
        "reduce_concat=[2])",
        "Genotype(normal=[('conv_1x1', 0), ('conv_1x1', 1)], normal_concat=range(10**9), "
        "reduce=[('cse', 0), ('cse', 1)], reduce_concat=[2])",
        "Genotype(normal=[('conv_1x1', 0), ('conv_1x1', 1)], normal_concat=[2], normal=[], reduce_concat=[2])",
        "(" * 1000,
    ],
)
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no genotype|state"):
        Genotype.of(text)
