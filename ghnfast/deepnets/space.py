"""Architecture graphs of DeepNets-1M networks from their settings, without making a network.

`graph_of(...)` equals `ghnfast.trace(Network(...).eval())`, node by node, in less time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .. import _C
from ..graph import ArchGraph
from ..tracing.tracer import Fate, fate_reason
from .genotype import OPERATIONS, Genotype
from .network import check_settings
from .operations import is_norm

# The arguments of `Network` that the published data set has, and what C++ calls them.
FIELDS = {
    "C": "channels",
    "n_cells": "cells",
    "ks": "kernel",
    "stem_pool": "stem_pool",
    "stem_type": "stem_type",
    "norm": "normed",
    "preproc": "preprocessed",
    "C_mult": "channel_factor",
    "fc_layers": "fc_layers",
    "fc_dim": "fc_width",
    "glob_avg": "global_average",
}
# Batch normalization without running statistics, as the published files call it.
PUBLISHED_NORM = "bnorm"
NUMBER_OF = {name: number for number, name in enumerate(OPERATIONS)}


def settings_of(
    *,
    genotype: Genotype | Mapping[str, Any] | str,
    num_classes: int,
    C: int,
    n_cells: int,
    is_imagenet_input: bool = True,
    ks: int = 3,
    stem_pool: bool = False,
    stem_type: int = 0,
    norm: str | None = "bn-track",
    preproc: bool = True,
    C_mult: int = 2,
    fc_layers: int = 0,
    fc_dim: int = 0,
    glob_avg: bool = True,
    is_vit: bool | None = None,
) -> _C.NetworkSettings:
    """The arguments of `Network`, with its defaults, for C++.

    Raises:
        ValueError: settings that are out of range or cannot work together.
    """
    genotype = Genotype.of(genotype)
    check_settings(genotype, num_classes, C, n_cells, ks, stem_type, preproc, C_mult, fc_layers, fc_dim)
    settings = _C.NetworkSettings()
    settings.set_cells(
        numbered(genotype.normal), genotype.normal_concat, numbered(genotype.reduce), genotype.reduce_concat
    )
    settings.num_classes, settings.channels, settings.cells, settings.kernel = num_classes, C, n_cells, ks
    settings.large_images, settings.stem_pool, settings.stem_type = is_imagenet_input, stem_pool, stem_type
    settings.normed, settings.preprocessed, settings.channel_factor = is_norm(norm), preproc, C_mult
    settings.fc_layers, settings.fc_width, settings.global_average = max(1, fc_layers), fc_dim, glob_avg
    settings.vit = genotype.uses("msa") if is_vit is None else is_vit
    return settings


def numbered(edges: tuple[tuple[str, int], ...]) -> list[tuple[int, int]]:
    return [(NUMBER_OF[name], state) for name, state in edges]


def genotype_of(settings: _C.NetworkSettings) -> Genotype:
    normal, normal_concat, reduce, reduce_concat = settings.cells_as_lists()
    named = [[(OPERATIONS[operation], state) for operation, state in edges] for edges in (normal, reduce)]
    return Genotype(named[0], normal_concat, named[1], reduce_concat)


def args_of(settings: _C.NetworkSettings) -> dict[str, Any]:
    """The settings that the published data set names, as it names them, without the genotype."""
    args = {field: getattr(settings, name) for field, name in FIELDS.items()}
    args["norm"] = PUBLISHED_NORM if settings.normed else None
    return args


def graph_of(**args: Any) -> ArchGraph:
    """The architecture graph of a network in evaluation mode.

    Args:
        args: those of `Network`, but for `auxiliary`, whose head has no part in evaluation.

    Raises:
        ValueError: settings that are out of range or cannot work together, or `none` operations cut every path.
    """
    return graph_from(settings_of(**args))


def graph_from(settings: _C.NetworkSettings) -> ArchGraph:
    found = settings.graph()
    if found is None:
        raise ValueError(
            f"the network has no output, as 'none' operations cut every path of its {genotype_of(settings)}"
        )
    primitives, edges, levels, shapes, weights, norm_biases, parameter_shapes, fates, weight, bias = found
    return ArchGraph(
        primitives=primitives,
        edges=edges,
        level_offsets=levels,
        shapes=shapes,
        weights=weights,
        norm_biases=norm_biases,
        classifier_weight=weight if weight >= 0 else None,
        classifier_bias=bias if bias >= 0 else None,
        parameter_shapes=parameter_shapes,
        skipped={name: fate_reason(Fate(fate) if fate >= 0 else None) for name, fate in fates.items()},
    )
