"""Published files of GHN-3, which are dumps of joblib: read with their configuration inferred, and never run."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import pickle
import struct
import zlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.checkpoint_cases import assert_same, message, says
from helpers.golden_data import closed_form_weights, golden, golden_ghn
from helpers.joblib_files import COMPRESSIONS, Called, dump, dumped, published_state, small_ghn, with_names
from hypothesis import given, settings
from hypothesis import strategies as st

import ghnfast
from ghnfast import CheckpointError
from ghnfast.checkpoints import read

# Not the large ones; and published files cannot say that virtual edges or normalization are off.
CONFIGS = [
    name
    for name, entry in golden("ghn3_checkpoints").items()
    if not ("-l-" in name or "-xl-" in name) and entry["config"]["ve"] and entry["config"]["weight_norm"]
]


@pytest.mark.parametrize("top", [True, False])
@pytest.mark.parametrize("name", CONFIGS)
def test_the_configuration_follows_from_the_weights(name: str, top: bool, tmp_path: Path) -> None:
    ghn = golden_ghn(name)
    path = dump(published_state(ghn, top), tmp_path / "ghn.pt")
    loaded = ghnfast.load(path)
    assert loaded.config == ghn.config
    assert (loaded.epoch, loaded.trained_on) == (None, None)
    assert_same(loaded.state_dict(), ghn.state_dict())
    assert not loaded.training
    loaded.save(tmp_path / "ghn.safetensors")
    assert set(read(tmp_path / "ghn.safetensors").state_dict) == set(golden("ghn3_checkpoints")[name]["state_dict"])


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_compressed_files(compression: str, tmp_path: Path) -> None:
    ghn = small_ghn()
    loaded = ghnfast.load(dump(published_state(ghn), tmp_path / "ghn.pt", compression))
    assert_same(loaded.state_dict(), ghn.state_dict())


def test_a_larger_compressed_file_is_read_in_pieces(tmp_path: Path) -> None:
    shapes = golden("ghn3_checkpoints")["ghn3-t-cifar10"]["state_dict"]
    weights = closed_form_weights(shapes)
    for compression in ("zlib", "bz2"):
        assert_same(read(dump(weights, tmp_path / "ghn.pt", compression)).state_dict, weights)


def test_what_else_joblib_writes(tmp_path: Path) -> None:
    """Plain dictionaries, versions of modules, views, columns first, other dtypes, protocol 5, no layer norm."""
    ghn = small_ghn(layernorm=False)
    state = published_state(ghn)
    long = torch.arange(1000.0)
    cases: dict[str, dict[str, torch.Tensor]] = {
        "dict": dict(state),
        "views": {**state, "embed.weight": long[40:160].view(15, 8), "gnn.0.ln1.bias": long[5:13]},
        "columns": OrderedDict((name, w.T.contiguous().T if w.ndim == 2 else w) for name, w in state.items()),
        "half": {name: weight.bfloat16() for name, weight in state.items()},
        "double": {name: weight.double() for name, weight in state.items()},
    }
    state_with_versions = OrderedDict(state)
    state_with_versions._metadata = OrderedDict({"": {"version": 1}})  # type: ignore[attr-defined]
    cases["versions"] = state_with_versions
    for name, weights in cases.items():
        loaded = ghnfast.load(dump(weights, tmp_path / f"{name}.pt"))
        assert loaded.config == ghn.config, name
        own = {key.replace("primitive_embedding", "embed"): value for key, value in loaded.state_dict().items()}
        for key, value in weights.items():
            assert torch.equal(own[key if key in own else f"gnn.0.{key}"], value.float()), (name, key)
    (tmp_path / "five.pt").write_bytes(pickle.dumps(state, 5))
    assert ghnfast.load(tmp_path / "five.pt").config == ghn.config
    dump({"state_dict": state, "config": ghn.config, "epoch": 7}, tmp_path / "whole.pt")
    assert ghnfast.load(tmp_path / "whole.pt").epoch == 7


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_tensors_anywhere_in_a_file(compression: str | None, tmp_path: Path) -> None:
    """Wherever one begins, a buffer of the file ends somewhere in its first bytes."""
    weights = {f"{'x' * (number % 61)}{number}": torch.full((number % 7, 5), float(number)) for number in range(600)}
    assert_same(read_dump(dump(weights, tmp_path / "ghn.pt", compression)), weights)


def read_dump(path: Path) -> Any:
    from ghnfast.checkpoints.joblib_files import read_dump

    return read_dump(path, path.read_bytes()[:64], None)[0]


def test_the_weights_alone_in_other_formats(tmp_path: Path) -> None:
    import safetensors.torch

    ghn = small_ghn()
    state = published_state(ghn)
    torch.save(state, tmp_path / "zip.pt")
    torch.save(state, tmp_path / "legacy.pt", _use_new_zipfile_serialization=False)
    torch.save({"state_dict": state, "epoch": 4}, tmp_path / "state.pt")
    safetensors.torch.save_file(state, tmp_path / "ghn.safetensors")
    for path in tmp_path.iterdir():
        loaded = ghnfast.load(path)
        assert loaded.config == ghn.config, path
        assert_same(loaded.state_dict(), ghn.state_dict())


# Safety --------------------------------------------------------------------------------------------------------------


def hostile_pickles(mark: Path) -> dict[str, tuple[bytes, str]]:
    """{name: content, what the message names}. Whatever they would run makes the file `mark`."""
    state = published_state(small_ghn())
    touch: Any = Called(os.system, f"touch {mark}")

    def inside(*arguments: Any) -> bytes:
        return pickle.dumps(Called(torch.storage._load_from_bytes, *arguments), 4)

    evil_storage = io.BytesIO()
    torch.save(touch, evil_storage, _use_new_zipfile_serialization=False)
    evil_zip = io.BytesIO()
    torch.save(touch, evil_zip)
    by_opcode = b"\x80\x04cposix\nsystem\n\x8c\x01a\x85R."
    instance = b"\x80\x04(\x8c\x01aiposix\nsystem\n."
    return {
        "value": (dumped({**state, "x": touch}), "posix.system"),
        "key": (dumped({touch: 1}), "posix.system"),
        "alone": (dumped(touch), "posix.system"),
        "eval": (dumped({**state, "x": Called(eval, "1")}), "builtins.eval"),
        "getattr": (dumped(Called(getattr, state, "clear")), "builtins.getattr"),
        "parameter": (dumped({**state, "x": torch.nn.Parameter(torch.zeros(2))}), "torch._utils._rebuild_parameter"),
        "load": (dumped(Called(torch.load, str(mark))), "torch.serialization.load"),
        "old": (with_names({**state, "x": touch}, 3).replace(b"\x80\x03", b"\x80\x04", 1), "posix.system"),
        "by_opcode": (by_opcode, "posix.system"),
        "instance": (instance, "instruction b'i'"),
        "dict_arguments": (pickle.dumps(Called(OrderedDict, [("a", 1)]), 4), "OrderedDict with arguments"),
        "in_storage": (inside(evil_storage.getvalue()), "posix.system"),
        "in_zip": (inside(evil_zip.getvalue()), "damaged"),
        "text_for_storage": (inside("abc"), "a storage of something"),
        "path_for_storage": (inside(str(mark)), "a storage of something"),
        "name_of_a_name": (dumped(Called(torch._utils._rebuild_tensor_v2, 1, 2)), "a tensor of something"),
        "extension": (b"\x80\x04\x82\x01.", "instruction b'\\x82'"),
        "persistent": (b"\x80\x04\x8c\x01aQ.", "instruction b'Q'"),
        "deep": (b"\x80\x04" + b"]" * (1 << 21) + b".", "more than"),
    }


@pytest.mark.parametrize("name", hostile_pickles(Path("mark")))
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_nothing_is_run(name: str, compression: str | None, tmp_path: Path) -> None:
    content, named = hostile_pickles(tmp_path / "mark")[name]
    path = tmp_path / "ghn.pt"
    path.write_bytes(content if compression is None else zlib.compress(content))
    says(message(ghnfast.load, path), path, named, "accepted")
    assert not (tmp_path / "mark").exists()


def test_the_hostile_files_do_harm_where_they_are_run(tmp_path: Path) -> None:
    for name in ("value", "alone"):
        pickle.loads(hostile_pickles(tmp_path / name)[name][0])
        assert (tmp_path / name).exists()


@pytest.mark.parametrize("compression", [None, "zlib", "xz"])
def test_a_file_that_was_cut_off(compression: str | None, tmp_path: Path) -> None:
    content = dump(published_state(small_ghn()), tmp_path / "whole.pt", compression).read_bytes()
    path = tmp_path / "ghn.pt"
    for length in [*range(2, 80, 7), len(content) // 4, len(content) // 2, len(content) - 40, len(content) - 1]:
        path.write_bytes(content[:length])
        says(message(ghnfast.load, path), path, "damaged, cut off", "accepted")


@settings(deadline=None)
@given(st.data())
def test_a_damaged_file_is_refused_or_read(data: st.DataObject) -> None:
    content = bytearray(dumped(published_state(small_ghn(layers=1))))
    for _ in range(data.draw(st.integers(1, 3))):
        # Mostly where instructions are, which are few among the numbers.
        where = data.draw(st.sampled_from([200, 2000, len(content) - 1]))
        content[data.draw(st.integers(0, where))] = data.draw(st.integers(0, 255))
    path = Path(os.environ["PYTEST_DAMAGED"])
    path.write_bytes(content)
    try:
        ghnfast.load(path)
    except CheckpointError as error:
        says(str(error), "ccepted")


@pytest.fixture(autouse=True)
def damaged_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_DAMAGED", str(tmp_path / "damaged.pt"))


def with_tensor(tensor: torch.Tensor) -> bytes:
    return dumped({**published_state(small_ghn()), "x": tensor})


def with_large_dictionary() -> bytes:
    content = lzma.compress(b"a", lzma.FORMAT_ALONE)
    return content[:1] + struct.pack("<I", (1 << 32) - 1) + content[5:]


# Small files that would become large.
BOMBS: dict[str, Callable[[], bytes]] = {
    "zlib": lambda: zlib.compress(with_tensor(torch.zeros(1 << 26)), 1),
    "gzip": lambda: gzip.compress(with_tensor(torch.zeros(1 << 26)), 1),
    "bz2": lambda: bz2.compress(bytes(1 << 26), 1),
    "xz": lambda: lzma.compress(with_tensor(torch.zeros(1 << 24)), preset=0),
    "instructions": lambda: zlib.compress(b"\x80\x04" + b"}\x94" * (1 << 25)),
    "length": lambda: b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b"abc",
    "text": lambda: b"\x80\x04\x8d" + struct.pack("<Q", 1 << 40) + b"abc",
    "frame": lambda: b"\x80\x04\x95" + struct.pack("<Q", 1 << 40) + b"abc",
    "dictionary": with_large_dictionary,
    "expanded": lambda: with_tensor(torch.zeros(1).expand(1 << 30)),
    "overlapping": lambda: with_tensor(torch.zeros(400).as_strided((200, 200), (1, 1))),
    "beyond": lambda: dumped({"embed.weight": torch.zeros(2)}).replace(b"K\x02\x85", b"K\x7f\x85"),
    "far": lambda: dumped({"a": torch.zeros(2)}).replace(b"K\x02\x85", b"\x8a\x08" + b"\xff" * 7 + b"\x0f\x85"),
    "repeated": lambda: dumped(dict.fromkeys((f"w{number}" for number in range(9999)), torch.zeros(1 << 16))),
}


@pytest.mark.parametrize("name", BOMBS)
def test_small_files_that_claim_much(name: str, tmp_path: Path) -> None:
    path = tmp_path / "ghn.pt"
    path.write_bytes(BOMBS[name]())
    assert path.stat().st_size < 2 << 20
    says(message(ghnfast.load, path), path, "accepted")


def test_lz4_is_named(tmp_path: Path) -> None:
    (tmp_path / "ghn.pt").write_bytes(b"\x04\x22\x4d\x18" + bytes(100))
    says(message(ghnfast.load, tmp_path / "ghn.pt"), "lz4", "zlib, gzip, bz2, xz and lzma are accepted")


def test_pipes_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "ghn3tm8.pt")
    says(message(read, tmp_path / "ghn3tm8.pt"), "a regular file is accepted")


# Shapes --------------------------------------------------------------------------------------------------------------

FAULTS: dict[str, tuple[str, Callable[[torch.Tensor], torch.Tensor | None], str]] = {
    "no_square": ("decoder.conv.2.weight", lambda w: w[:-1], "contradict each other"),
    "cells": ("decoder.fc.0.weight", lambda w: w[:-3], "contradict each other"),
    "hid": ("embed.weight", lambda w: w[:, :-1], "contradict each other"),
    "no_hid": ("embed.weight", lambda w: w[:, :0], "contradict each other"),
    "rows": ("decoder.class_layer_predictor.1.weight", lambda w: w[:, :5], "contradict each other"),
    "no_rows": ("decoder.class_layer_predictor.1.weight", lambda w: w[:, :0], "contradict each other"),
    "classes": ("decoder.class_layer_predictor.1.weight", lambda w: w[:4], "does not fit its configuration"),
    "heads": ("gnn.0.attn.proj_e.2.weight", lambda w: torch.zeros(3, 8), "a divisor of hid is accepted"),
    "no_heads": ("gnn.0.attn.proj_e.2.weight", lambda w: w[:0], "heads is 0"),
    "vector": ("gnn.0.attn.proj_e.2.weight", lambda w: w[0], "missing or no matrices"),
    "no_classes": ("decoder.class_layer_predictor.1.weight", lambda w: w[:0], "num_classes is 0"),
    "layer": ("gnn.1.ln1.weight", lambda w: None, "unexpected keys"),
    "embedding": ("embed.weight", lambda w: None, "missing or no matrices: embed.weight"),
    "qkv": ("gnn.1.attn.to_qkv.weight", lambda w: w[:-1], "wrong shapes: gnn.1.attn.to_qkv.weight"),
    "table": ("centrality_embed_in.weight", lambda w: None, "missing keys: gnn.0.centrality_embed_in.weight"),
    "norm": ("ln.bias", lambda w: None, "missing keys: ln.bias"),
    "nan": ("gnn.1.ff.net.3.bias", lambda w: w * torch.nan, "NaN or infinite values"),
    "integers": ("ln.bias", lambda w: w.long(), "no floating-point numbers"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_weights_that_contradict_each_other(name: str, tmp_path: Path) -> None:
    weight, change, expected = FAULTS[name]
    state: dict[str, Any] = published_state(small_ghn())
    changed = change(state[weight])
    if changed is None:
        del state[weight]
    else:
        state[weight] = changed.clone()
    says(message(ghnfast.load, dump(state, tmp_path / "ghn.pt")), tmp_path / "ghn.pt", expected, "ccepted")


def test_a_table_in_both_places(tmp_path: Path) -> None:
    state = published_state(small_ghn())
    state["gnn.0.input_dist_embed.weight"] = state["input_dist_embed.weight"]
    says(message(ghnfast.load, dump(state, tmp_path / "ghn.pt")), "unexpected keys: input_dist_embed.weight")


def test_the_weights_of_another_ghn_have_no_configuration(tmp_path: Path) -> None:
    state = ghnfast.load("ghn2-mnist5k").state_dict()
    says(message(ghnfast.load, dump(state, tmp_path / "ghn.pt")), "has no 'state_dict', 'config'")
    for value, expected in ((3, "holds a int"), ([1.5, None, (True, "a")], "holds a list"), ({"a": 1}, "it has 'a'")):
        says(message(ghnfast.load, dump(value, tmp_path / "ghn.pt")), expected, "accepted")


def test_a_name_that_is_no_text(tmp_path: Path) -> None:
    state: dict[Any, torch.Tensor] = {**published_state(small_ghn())}
    torch.save({**state, 3: torch.ones(1)}, tmp_path / "ghn.pt")
    says(message(ghnfast.load, tmp_path / "ghn.pt"), "'state_dict'", "3")
