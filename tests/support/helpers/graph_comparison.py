"""Compares labelled graphs up to the order of their nodes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

Labels = Sequence[tuple[str, str | None]]
Edges = Sequence[Sequence[int]]


def colours(labels: Labels, edges: Edges, rounds: int = 12) -> list[int]:
    """A number per node that depends on its label and on everything within `rounds` hops (Weisfeiler-Lehman)."""
    predecessors: list[list[int]] = [[] for _ in labels]
    successors: list[list[int]] = [[] for _ in labels]
    for source, target in edges:
        predecessors[target].append(source)
        successors[source].append(target)
    colour = [hash(tuple(label)) for label in labels]
    for _ in range(rounds):
        colour = [
            hash((own, tuple(sorted(colour[i] for i in before)), tuple(sorted(colour[i] for i in after))))
            for own, before, after in zip(colour, predecessors, successors, strict=True)
        ]
    return colour


def difference(labels: Labels, edges: Edges, golden_labels: Labels, golden_edges: Edges) -> dict[str, Any]:
    """What distinguishes two labelled graphs; empty where they are the same."""
    labels = [(op, param) for op, param in labels]
    golden_labels = [(op, param) for op, param in golden_labels]
    found: dict[str, Any] = {
        "only ours": Counter(labels) - Counter(golden_labels),
        "only golden": Counter(golden_labels) - Counter(labels),
    }
    if not any(found.values()):
        ours, golden = colours(labels, edges), colours(golden_labels, golden_edges)
        if Counter(ours) != Counter(golden):
            mine, theirs = (neighbours(*graph) for graph in ((labels, edges), (golden_labels, golden_edges)))
            found["neighbours"] = {
                label: (mine[label], theirs[label]) for label in mine if label[1] and mine[label] != theirs[label]
            } or "the same next to every parameter"
    return {key: value for key, value in found.items() if value}


def neighbours(labels: Labels, edges: Edges) -> dict[Any, Any]:
    inputs: dict[Any, list[Any]] = {tuple(label): [] for label in labels}
    for source, target in edges:
        inputs[tuple(labels[target])].append(tuple(labels[source]))
    return {label: sorted(found, key=str) for label, found in inputs.items()}
