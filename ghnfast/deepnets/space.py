"""Architecture graphs of DeepNets-1M networks from their settings, without making a network.

`graph_of(...)` equals `ghnfast.trace(Network(...).eval())`, node by node, in less time.
"""

from __future__ import annotations

import inspect
from typing import Any

from .. import _C
from ..errors import ConfigError
from ..graph import ArchGraph
from ..tracing import Fate, fate_reason
from .checks import check_settings, check_switches
from .genotype import OPERATIONS, Genotype
from .network import Network
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
# An argument that only wider networks of large images have, when it is not what others have.
STRIDE, STRIDE_OF_OTHERS = "imagenet_stride", 4
# Batch normalization without running statistics, as the published files call it.
PUBLISHED_NORM = "bnorm"
SIGNATURE = inspect.signature(Network)
SIGNATURE = SIGNATURE.replace(parameters=[p for name, p in SIGNATURE.parameters.items() if name != "auxiliary"])
CHECKED = [name for name in inspect.signature(check_settings).parameters if name != "genotype"]
SWITCHES = ("is_imagenet_input", "stem_pool", "glob_avg", "preproc", "is_vit")
NUMBER_OF = {name: number for number, name in enumerate(OPERATIONS)}


def settings_of(**args: Any) -> _C.NetworkSettings:
    """The arguments of `Network`, with its defaults, for C++; `auxiliary` is none of them (see `graph_of`).

    Raises:
        TypeError: an argument that `Network` does not have, or one that it needs is missing.
        ConfigError: settings that are out of range or cannot work together.
    """
    bound = SIGNATURE.bind(**args)
    bound.apply_defaults()
    given = bound.arguments
    genotype = Genotype.of(given["genotype"])
    check_settings(genotype, **{name: given[name] for name in CHECKED})
    check_switches(**{name: given[name] for name in SWITCHES})
    settings = _C.NetworkSettings()
    settings.set_cells(
        numbered(genotype.normal), genotype.normal_concat, numbered(genotype.reduce), genotype.reduce_concat
    )
    for field, name in FIELDS.items():
        if field != "norm":
            value = given[field]
            setattr(settings, name, bool(value) if isinstance(getattr(settings, name), bool) else value)
    settings.stem_stride = given[STRIDE]
    settings.normed = is_norm(given["norm"])
    settings.num_classes, settings.large_images = given["num_classes"], bool(given["is_imagenet_input"])
    settings.vit = genotype.uses("msa") if given["is_vit"] is None else bool(given["is_vit"])
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
    return args if settings.stem_stride == STRIDE_OF_OTHERS else {**args, STRIDE: settings.stem_stride}


def graph_of(**args: Any) -> ArchGraph:
    """The architecture graph of a network in evaluation mode.

    Args:
        args: those of `Network`, but for `auxiliary`, whose head has no part in evaluation.

    Raises:
        ConfigError: settings that are out of range or cannot work together, or `none` operations cut every path.
    """
    return graph_from(settings_of(**args))


def graph_from(settings: _C.NetworkSettings) -> ArchGraph:
    found = settings.graph()
    if found is None:
        raise ConfigError(
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
        check=False,
    )
