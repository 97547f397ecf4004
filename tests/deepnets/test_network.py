"""DeepNets-1M networks: names and shapes against the golden file, forward passes, and what is refused."""

from __future__ import annotations

import gzip
import json
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch

from ghnfast.deepnets import OPERATIONS, Genotype, Network
from ghnfast.deepnets.operations import SelfAttention, drop_path

GOLDEN = json.loads(gzip.decompress((Path(__file__).parents[1] / "golden" / "deepnets.json.gz").read_bytes()))

PLAIN = Genotype([("conv_3x3", 0), ("skip_connect", 1)], [2], [("max_pool_3x3", 0), ("sep_conv_3x3", 1)], [2])
ATTENTION = Genotype([("msa", 0), ("skip_connect", 1)], [2], [("avg_pool_3x3", 0), ("conv_1x1", 1)], [2])
NO_PATH = Genotype([("none", 0), ("none", 1)], [2], [("none", 0), ("none", 1)], [2])


def golden_network(name: str) -> Network:
    return Network(num_classes=10, is_imagenet_input=False, genotype=GOLDEN[name]["genotype"], **GOLDEN[name]["args"])


def small_network(genotype: Genotype = PLAIN, **settings: Any) -> Network:
    defaults: dict[str, Any] = {"num_classes": 10, "C": 16, "n_cells": 4, "is_imagenet_input": False}
    return Network(genotype=genotype, **{**defaults, **settings})


@pytest.mark.parametrize("name", GOLDEN)
def test_parameters_are_those_of_the_published_network(name: str) -> None:
    with torch.device("meta"):
        network = golden_network(name)
    shapes = {parameter: list(value.shape) for parameter, value in network.named_parameters()}
    golden = GOLDEN[name]
    assert set(shapes) == set(golden["predicted"])
    reachable = {parameter: record for parameter, record in golden["predicted"].items() if record != "unreachable"}
    assert {parameter: shapes[parameter] for parameter in reachable} == {
        parameter: record["shape"] for parameter, record in reachable.items()
    }
    assert sum(map(prod, shapes.values())) == golden["params"]
    assert len(shapes) == golden["tensors"]


def test_the_classifier_comes_last() -> None:
    names = [name for name, _ in small_network(auxiliary=True, fc_layers=2, fc_dim=8).named_parameters()]
    assert names[0] == "stem.0.weight"
    assert names[-2:] == ["classifier.3.weight", "classifier.3.bias"]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ["bnfree/0", "dense/10", "search/0", "test/1", "test/30", "val/1"])
def test_forward_gives_finite_logits(name: str, training: bool) -> None:
    torch.manual_seed(0)
    network = golden_network(name).train(training)
    logits, auxiliary_logits = network(torch.randn(2, *network.input_shape))
    assert logits.shape == (2, 10)
    assert logits.isfinite().all()
    assert auxiliary_logits is None


def test_input_shape() -> None:
    assert small_network().input_shape == (3, 32, 32)
    assert small_network(is_imagenet_input=True).input_shape == (3, 224, 224)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_operation_in_normal_and_reduction_cells(operation: str) -> None:
    edges = [(operation, 0), ("skip_connect", 1), (operation, 2), ("conv_1x1", 1)]
    network = small_network(Genotype(edges, [2, 3], edges, [3]), is_vit=False)
    logits, _ = network(torch.randn(2, 3, 32, 32))
    logits.sum().backward()
    assert logits.isfinite().all()
    # A none operation alone leaves parameters without a path to the logits.
    assert operation == "none" or all(value.grad is not None for value in network.parameters())


@pytest.mark.parametrize(
    ("genotype", "settings"),
    [
        (PLAIN, {"stem_type": 0}),
        (PLAIN, {"stem_type": 0, "stem_pool": True, "glob_avg": False}),
        (PLAIN, {"stem_type": 1, "glob_avg": False}),
        (PLAIN, {"stem_type": 0, "glob_avg": False, "fc_layers": 3, "fc_dim": 8}),
        (ATTENTION, {}),
        (ATTENTION, {"glob_avg": False}),
    ],
)
@pytest.mark.parametrize("is_imagenet_input", [True, False])
@torch.no_grad()
def test_forward_of_every_stem_and_head(genotype: Genotype, settings: dict[str, Any], is_imagenet_input: bool) -> None:
    network = small_network(genotype, is_imagenet_input=is_imagenet_input, **settings)
    logits, _ = network(torch.randn(1, *network.input_shape))
    assert logits.shape == (1, 10)
    assert logits.isfinite().all()


@pytest.mark.parametrize("n_cells", [1, 2, 3])
def test_flattening_head_fits_short_networks(n_cells: int) -> None:
    logits, _ = small_network(n_cells=n_cells, glob_avg=False)(torch.randn(2, 3, 32, 32))
    assert logits.shape == (2, 10)


def test_without_preprocessing() -> None:
    network = small_network(preproc=False, C_mult=1, stem_type=1)
    assert not any("preprocess" in name for name, _ in network.named_parameters())
    assert network(torch.randn(2, 3, 32, 32))[0].isfinite().all()


@pytest.mark.parametrize(
    ("genotype", "settings"),
    [
        (PLAIN, {"stem_type": 0}),
        (PLAIN, {"stem_type": 1}),
        (PLAIN, {"stem_type": 1, "is_imagenet_input": True}),
        (ATTENTION, {}),
        (ATTENTION, {"stem_type": 1}),
    ],
)
def test_auxiliary_head(genotype: Genotype, settings: dict[str, Any]) -> None:
    network = small_network(genotype, auxiliary=True, **settings)
    images = torch.randn(2, *network.input_shape)
    logits, auxiliary_logits = network(images)
    assert logits.shape == auxiliary_logits.shape == (2, 10)
    (logits.sum() + auxiliary_logits.sum()).backward()
    assert all(value.grad is not None for value in network.auxiliary_head.parameters())
    assert network.eval()(images)[1] is None


def test_auxiliary_head_has_the_published_parameters() -> None:
    small = dict(small_network(auxiliary=True).named_parameters())
    large = dict(small_network(auxiliary=True, stem_type=1, is_imagenet_input=True).named_parameters())
    assert small["auxiliary_head.features.2.weight"].shape == (128, 64, 1, 1)
    assert small["auxiliary_head.features.5.weight"].shape == (768, 128, 2, 2)
    assert small["auxiliary_head.classifier.weight"].shape == (10, 768)
    assert "auxiliary_head.features.6.weight" in small
    assert "auxiliary_head.features.6.weight" not in large


def test_drop_path_acts_in_training_only() -> None:
    torch.manual_seed(0)
    network = small_network(norm=None)
    images = torch.randn(4, 3, 32, 32)
    kept = network(images)[0]
    network.drop_path_prob = 0.5
    assert not torch.equal(network(images)[0], kept)
    network.eval()
    assert torch.equal(network(images)[0], kept)


def test_drop_path_keeps_the_expectation_and_drops_whole_images() -> None:
    torch.manual_seed(0)
    images = drop_path(torch.full((4000, 3, 2, 2), 3.0), 0.25)
    assert torch.equal(images.amin((1, 2, 3)), images.amax((1, 2, 3)))
    assert set(images.flatten().tolist()) == {0.0, 4.0}
    assert images.mean().item() == pytest.approx(3, abs=0.1)


def test_drop_path_never_drops_skip_connections() -> None:
    torch.manual_seed(0)
    skips = [("skip_connect", 0), ("skip_connect", 1)]
    network = small_network(Genotype(skips, [2], skips, [2]), n_cells=1)
    images = torch.randn(2, 3, 32, 32)
    kept = network(images)[0]
    network.drop_path_prob = 0.9
    assert torch.equal(network(images)[0], kept)


@pytest.mark.parametrize("probability", [-0.1, 1.0])
def test_invalid_drop_path_probability(probability: float) -> None:
    network = small_network()
    network.drop_path_prob = probability
    with pytest.raises(ValueError, match=rf"drop_path_prob must be at least 0 and less than 1, given {probability}"):
        network(torch.randn(2, 3, 32, 32))


def test_missing_state_is_zeros_in_the_concatenation() -> None:
    edges = [("none", 0), ("none", 1), ("conv_1x1", 0), ("skip_connect", 1)]
    cell = small_network(Genotype(edges, [2, 3], edges, [2, 3]), n_cells=1).cells[0]
    output = cell(torch.randn(2, 48, 4, 4), torch.randn(2, 48, 4, 4))
    assert output.shape == (2, 32, 4, 4)
    assert not output[:, :16].any()
    assert output[:, 16:].any()


def test_none_operations_cost_nothing() -> None:
    network = small_network(Genotype([("none", 0), ("conv_1x1", 1)], [2], PLAIN.reduce, [2]), n_cells=1)
    assert [name for name, _ in network.cells[0].named_modules() if name.count(".") == 1 and "_ops" in name] == [
        "_ops.1"
    ]


def test_a_network_without_output_says_so() -> None:
    network = small_network(NO_PATH)
    with pytest.raises(ValueError, match=r"no output, as 'none' operations cut every path of its Genotype\(normal="):
        network(torch.randn(2, 3, 32, 32))


def test_normalization_follows_its_name() -> None:
    tracked = small_network(norm="bn-track").state_dict()
    assert any(name.endswith("running_mean") for name in tracked)
    for norm in ("bn", "bnorm"):
        names = list(small_network(norm=norm).state_dict())
        assert "stem.1.weight" in names
        assert not any(name.endswith("running_mean") for name in names)
    for absent in (None, "", "none"):
        assert "stem.1.weight" not in small_network(norm=absent).state_dict()


def test_attention_is_that_of_its_equation() -> None:
    block = SelfAttention(16, 1)
    tokens = torch.randn(2, 9, 16)
    query, key, value = block.to_qkv(tokens).unflatten(2, (3, 8, 2)).permute(2, 0, 3, 1, 4)
    weights = (query @ key.transpose(-2, -1) / 2**0.5).softmax(dim=-1)
    expected = (weights @ value).transpose(1, 2).flatten(2)
    torch.testing.assert_close(block._attend(tokens), expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_classes": 0}, "num_classes must be 1 or more, given 0"),
        ({"C": 0}, "C must be 1 or more, given 0"),
        ({"n_cells": 0}, "n_cells must be 1 or more, given 0"),
        ({"C_mult": 0}, "C_mult must be 1 or more, given 0"),
        ({"ks": 4}, "ks must be odd and positive, given 4"),
        ({"imagenet_stride": 3}, "imagenet_stride must be 2 or 4, given 3"),
        ({"imagenet_stride": True}, "imagenet_stride must be 2 or 4, given True"),
        ({"stem_type": 2}, r"stem_type must be 0 .* or 1 .*, given 2"),
        ({"stem_type": 1, "C": 1}, "C must be 2 or more with stem_type 1, .* given 1"),
        ({"stem_type": 1, "C": 15}, r"even number of channels \(C\), given 15"),
        ({"norm": "layer"}, "norm must be None, '', 'none' or a name that starts with 'bn' .*, given 'layer'"),
        ({"norm": 3}, "norm must be .*, given 3"),
        ({"fc_layers": -1}, "fc_layers must be 0 or more, given -1"),
        ({"fc_layers": 2}, "fc_dim must be 1 or more where fc_layers is more than 1, given 0"),
        ({"preproc": False}, "preproc=False needs .* given C_mult=2 and 1 concatenated states"),
        ({"auxiliary": True, "n_cells": 1}, "needs features of side 8 or 4 .* make it 32 for is_imagenet_input=False"),
        ({"auxiliary": True, "is_imagenet_input": True}, "needs features of side 7 .* make it 14"),
        ({"genotype": ATTENTION, "C": 4}, r"msa needs 8 channels \(C\) or more, given 4"),
        ({"genotype": Genotype([("cse", 0), ("cse", 1)], [2], PLAIN.reduce, [2]), "C": 1}, "cse needs 2 channels"),
    ],
)
def test_settings_that_cannot_work(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small_network(**settings)


def test_preprocessing_is_needed_where_states_are_concatenated() -> None:
    edges = [*PLAIN.normal, *PLAIN.normal]
    with pytest.raises(ValueError, match="given C_mult=1 and 2 concatenated states"):
        small_network(Genotype(edges, [2, 3], edges, [2]), preproc=False, C_mult=1)


def test_genotype_is_a_value() -> None:
    lists = json.loads(
        json.dumps({"normal": PLAIN.normal, "normal_concat": [2], "reduce": PLAIN.reduce, "reduce_concat": [2]})
    )
    assert Genotype(**lists) == Genotype.of(lists) == PLAIN
    assert Genotype.of(PLAIN) is PLAIN
    assert len({Genotype(**lists), PLAIN, ATTENTION}) == 2
    assert PLAIN.normal == (("conv_3x3", 0), ("skip_connect", 1))
    assert "normal=[('conv_3x3', 0), ('skip_connect', 1)], normal_concat=[2]" in repr(PLAIN)
    assert small_network(lists).genotype == PLAIN
    with pytest.raises(AttributeError):
        PLAIN.normal = ()  # type: ignore[misc]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"normal": [("conv_9x9", 0), ("cse", 1)]},
            r"normal\[0\]: unknown operation 'conv_9x9', accepted are none, max_",
        ),
        ({"normal": [("cse", 0), ("cse", 2)]}, r"normal\[1\]: step 0 can read states 0 to 1, given 2"),
        ({"reduce": [("cse", -1), ("cse", 1)]}, r"reduce\[0\]: step 0 can read states 0 to 1, given -1"),
        ({"reduce": [("cse", "0"), ("cse", 1)]}, r"reduce\[0\]: step 0 can read states 0 to 1, given '0'"),
        ({"reduce": [("cse", 0)]}, "reduce: a cell has two edges for each of its steps, one or more, given 1 edges"),
        ({"reduce": []}, "reduce: a cell has two edges .* given 0 edges"),
        ({"reduce": ["cse", "cse"]}, r"reduce\[0\]: an edge is a pair \(operation, state\), given 'cse'"),
        ({"normal_concat": []}, "normal_concat: the cell must concatenate one or more of states 2 to 2, given none"),
        ({"normal_concat": [3]}, "normal_concat: the cell can concatenate states 2 to 2, given 3"),
        ({"reduce_concat": [1]}, "reduce_concat: the cell can concatenate states 2 to 2, given 1"),
    ],
)
def test_invalid_genotypes(changes: dict[str, Any], message: str) -> None:
    fields = {"normal": PLAIN.normal, "normal_concat": [2], "reduce": PLAIN.reduce, "reduce_concat": [2]}
    with pytest.raises(ValueError, match=message):
        Genotype(**{**fields, **changes})


@pytest.mark.parametrize("source", [{"normal": PLAIN.normal}, 7, None])
def test_a_genotype_needs_its_four_fields(source: Any) -> None:
    with pytest.raises(ValueError, match="mapping with the keys normal, normal_concat, reduce, reduce_concat, given"):
        Network(genotype=source, num_classes=10, C=16, n_cells=4)
