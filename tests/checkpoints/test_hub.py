"""GHNs on the Hugging Face Hub: published ones by name, and those of users. The hub is a server of the tests' own."""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.checkpoint_cases import assert_same, message, says
from helpers.hub_server import Hub, running_hub
from helpers.joblib_files import dumped, published_state, small_ghn

import ghnfast
from ghnfast import GHN, MissingPackageError, checkpoints
from ghnfast.checkpoints import PUBLISHED

GHN3 = "SamsungSAILMontreal/ghn3"
STEMS = {"ghn3-t": "ghn3tm8", "ghn3-s": "ghn3sm8", "ghn3-l": "ghn3lm8", "ghn3-xl": "ghn3xlm16"}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with running_hub(monkeypatch, tmp_path / "cache") as running:
        yield running


@pytest.mark.parametrize("name", STEMS)
def test_published_ones_have_names(name: str, hub: Hub) -> None:
    ghn = small_ghn(heads=4)
    hub.put(GHN3, f"{STEMS[name]}.pt", dumped(published_state(ghn)))
    for alias in (name, STEMS[name], f"{STEMS[name]}.pt"):
        loaded = ghnfast.load(alias)
        assert loaded.config == ghn.config
        assert_same(loaded.state_dict(), ghn.state_dict())
    assert sum("GET" in asked and asked.endswith(f"/{STEMS[name]}.pt") for asked in hub.asked) == 1


def test_the_cache_serves_without_a_network(hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hub.put(GHN3, "ghn3tm8.pt", dumped(published_state(small_ghn())))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    says(message(ghnfast.load, "ghn3-t"), "HF_HUB_OFFLINE is set", tmp_path / "cache", "ghn3tm8.pt")
    assert hub.asked == []
    monkeypatch.delenv("HF_HUB_OFFLINE")
    ghnfast.load("ghn3-t")
    asked = len(hub.asked)
    ghnfast.load("ghn3-t")
    assert len(hub.asked) == asked
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    ghnfast.load("ghn3-t")
    assert len(hub.asked) == asked
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens
    ghnfast.load("ghn3-t")
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the client's attempts
    says(message(ghnfast.load, "ghn3-s"), "ghn3sm8.pt", "it cannot be reached, and the file is not in its cache")


def test_the_cache_is_where_the_variables_say(hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hub.put(GHN3, "ghn3tm8.pt", dumped(published_state(small_ghn())))
    monkeypatch.delenv("HF_HUB_CACHE")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    ghnfast.load("ghn3-t")
    assert os.listdir(tmp_path / "home" / "hub")
    assert not (tmp_path / "cache").exists()


def test_a_file_of_that_name_wins_over_an_alias_with_a_suffix(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ghn3tm8.pt").write_bytes(dumped(published_state(small_ghn())))
    assert ghnfast.load("ghn3tm8.pt").config == small_ghn().config
    assert hub.asked == []


def test_what_the_hub_does_not_have(hub: Hub) -> None:
    says(message(ghnfast.load, "ghn3-t"), "ghn3tm8.pt", GHN3, "there is no such repository")
    hub.put(GHN3, "other", b"")
    says(message(ghnfast.load, "ghn3-t"), "the repository has no such file")
    hub.put("a/b", "model.safetensors", b"")
    load: Any = GHN.from_pretrained
    says(message(lambda: load("a/b", revision="none")), "there is no such revision", "'none'")
    says(message(load, "a/c"), "there is no such repository")
    says(message(load, GHN3), "has no model.safetensors", "ghn3-t, ghn3-s, ghn3-l, ghn3-xl")


def test_a_file_that_is_not_what_it_should_be(hub: Hub) -> None:
    whole = dumped(published_state(small_ghn()))
    hub.put(GHN3, "ghn3tm8.pt", whole[: len(whole) // 2])
    says(message(ghnfast.load, "ghn3-t"), "ghn3tm8.pt", "damaged, cut off")
    hub.put(GHN3, "ghn3sm8.pt", b"\x80\x04cposix\nsystem\n\x8c\x01a\x85R.")
    says(message(ghnfast.load, "ghn3-s"), "posix.system", "can run any program")
    hub.put(GHN3, "ghn3lm8.pt", b"")
    says(message(ghnfast.load, "ghn3-l"), "is empty")


def test_without_the_client(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for module in list(sys.modules):
        if module.partition(".")[0] == "huggingface_hub":
            monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for call in (
        lambda: ghnfast.load("ghn3-t"),
        lambda: GHN.from_pretrained("a/b"),
        lambda: small_ghn().push_to_hub("a/b"),
    ):
        with pytest.raises(MissingPackageError, match=r"huggingface_hub.*pip install huggingface_hub"):
            call()
    small_ghn().save_pretrained(tmp_path / "ghn")
    assert GHN.from_pretrained(tmp_path / "ghn").config == small_ghn().config


# Folders -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ghn", [small_ghn(), GHN(max_shape=(8, 8, 3, 3), num_classes=10, hid=8)], ids=["3", "2"])
def test_a_folder_holds_a_ghn(ghn: GHN, tmp_path: Path) -> None:
    folder = tmp_path / "made" / "ghn"
    ghn.save_pretrained(folder)
    assert sorted(os.listdir(folder)) == ["README.md", "config.json", "model.safetensors"]
    assert json.loads((folder / "config.json").read_text()) == {**ghn.config, "max_shape": [8, 8, 3, 3]}
    loaded = GHN.from_pretrained(folder)
    assert loaded.config == ghn.config
    assert not loaded.training
    assert_same(loaded.state_dict(), ghn.state_dict())
    assert loaded.name == str(folder)
    card = (folder / "README.md").read_text()
    says(card, "library_name: ghnfast", f"| `hid` | `{ghn.config['hid']}` |", 'from_pretrained("ghn")')
    (folder / "README.md").write_text("mine")
    ghn.save_pretrained(str(folder))
    assert (folder / "README.md").read_text() == "mine"
    double = GHN.from_pretrained(str(folder), dtype=torch.float64)
    assert {weight.dtype for weight in double.parameters()} == {torch.float64}


def test_the_default_says_what_it_was_trained_on(tmp_path: Path) -> None:
    ghn = ghnfast.load("ghn2-mnist5k")
    ghn.save_pretrained(tmp_path)
    says((tmp_path / "README.md").read_text(), "trained on mnist5k", "epochs")
    loaded = GHN.from_pretrained(tmp_path)
    assert (loaded.epoch, loaded.trained_on) == (ghn.epoch, ghn.trained_on)


def test_weights_that_do_not_say_their_configuration(tmp_path: Path) -> None:
    import safetensors.torch

    ghn = GHN(max_shape=(8, 8, 3, 3), num_classes=10, hid=8)
    ghn.save_pretrained(tmp_path)
    weights = safetensors.torch.load_file(tmp_path / "model.safetensors")
    safetensors.torch.save_file(weights, tmp_path / "model.safetensors")
    assert GHN.from_pretrained(tmp_path).config == ghn.config
    for text, expected in (("{", "cannot be read"), ("[]", "holds no object"), (" " * 99999, "more than")):
        (tmp_path / "config.json").write_text(text)
        says(message(GHN.from_pretrained, tmp_path), "config.json", expected, "accepted")
    (tmp_path / "config.json").unlink()
    os.mkfifo(tmp_path / "config.json")
    says(message(GHN.from_pretrained, tmp_path), "a regular file is accepted")
    (tmp_path / "config.json").unlink()
    says(message(GHN.from_pretrained, tmp_path), "not one that this version of ghnfast writes")


def test_what_is_no_folder(tmp_path: Path) -> None:
    says(message(GHN.from_pretrained, tmp_path), "has no model.safetensors", "save_pretrained")
    (tmp_path / "ghn.pt").touch()
    says(message(GHN.from_pretrained, tmp_path / "ghn.pt"), "is a file, which ghnfast.load reads")
    for source in ("nothing", "/no/folder", "a/b/c", "../b", "", "a/", tmp_path / "none", "a\0/b"):
        says(message(GHN.from_pretrained, source), "is no folder", "'owner/name'")
    says(message(GHN.from_pretrained, 3), "not int")
    says(message(small_ghn().push_to_hub, "name"), "'name'", "'owner/name' is accepted")
    (tmp_path / "file").touch()
    says(message(small_ghn().save_pretrained, tmp_path / "file" / "in"), "cannot be written")


@pytest.mark.parametrize("folder", ["", None, 5, b"ghn", "a\0b"])
def test_paths_that_are_none(folder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    message(small_ghn().save_pretrained, folder)
    message(GHN.from_pretrained, folder)
    assert not list(tmp_path.iterdir())


def test_another_dtype_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    for call in (lambda: GHN.from_pretrained(tmp_path, dtype=torch.int8), lambda: ghnfast.load("x", dtype=torch.int8)):
        with pytest.raises(ghnfast.ConfigError, match=r"torch\.int8; torch\.float32, .*bfloat16 are accepted"):
            call()


# Repositories of users -----------------------------------------------------------------------------------------------


def test_up_and_down_again(hub: Hub) -> None:
    ghn = small_ghn()
    ghn.epoch = 3
    url = ghn.push_to_hub("somebody/ghn", token="t", commit_message="first")
    assert url.startswith(f"{hub.address}/somebody/ghn/commit/")
    assert hub.messages == ["first"]
    files = hub.repositories["somebody/ghn"]["main"]
    assert sorted(files) == ["README.md", "config.json", "model.safetensors"]
    says(files["README.md"].decode(), "# somebody/ghn", 'from_pretrained("somebody/ghn")')
    loaded = GHN.from_pretrained("somebody/ghn")
    assert (loaded.config, loaded.epoch, loaded.name) == (ghn.config, 3, "somebody/ghn")
    assert_same(loaded.state_dict(), ghn.state_dict())
    # A card that somebody has written stays; and another revision has other weights.
    files["README.md"] = b"mine"
    small_ghn(layers=1).push_to_hub("somebody/ghn", token="t")
    assert files["README.md"] == b"mine"
    for name, content in files.items():
        hub.put("somebody/ghn", name, content, "v1")
    ghn.push_to_hub("somebody/ghn", token="t")
    assert GHN.from_pretrained("somebody/ghn").config["layers"] == 2
    assert GHN.from_pretrained("somebody/ghn", revision="v1").config["layers"] == 1


def test_uploads_that_fail(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.refuse_writes = True
    says(message(lambda: small_ghn().push_to_hub("somebody/ghn", token="t")), "could not upload", "accepted")
    assert hub.repositories == {}
    asked = len(hub.asked)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    says(message(small_ghn().push_to_hub, "somebody/ghn"), "HF_HUB_OFFLINE is set")
    assert len(hub.asked) == asked


def test_entries_of_files_on_the_hub() -> None:
    for name, stem in STEMS.items():
        entry = PUBLISHED[name]
        assert (entry.repository, entry.file, entry.check) == (GHN3, f"{stem}.pt", None)


def test_offline_is_not_absent(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody could ask for need not be missing; a configuration that was known to be is."""
    small_ghn().push_to_hub("me/ghn", token="t")
    bare, whole = "me/bare", "me/whole"
    for name, content in hub.repositories["me/ghn"]["main"].items():
        hub.put(whole, name, content)
    hub.put(bare, "model.safetensors", hub.repositories["me/ghn"]["main"]["model.safetensors"])
    GHN.from_pretrained(bare)
    assert checkpoints.hub_file(whole, "model.safetensors") is not None
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert GHN.from_pretrained(bare).settings == small_ghn().settings
    says(message(GHN.from_pretrained, whole), "config.json", "HF_HUB_OFFLINE is set", "not in its cache")
    says(message(GHN.from_pretrained, "me/other"), "HF_HUB_OFFLINE is set", "not in its cache")


def test_a_folder_has_no_revisions(tmp_path: Path) -> None:
    small_ghn().save_pretrained(tmp_path / "ghn")
    says(
        message(functools.partial(GHN.from_pretrained, revision="v1"), tmp_path / "ghn"),
        "revision is 'v1'",
        "is a folder",
    )


def test_weights_can_be_trained_wherever_they_were_loaded(tmp_path: Path) -> None:
    small_ghn().save_pretrained(tmp_path / "ghn")
    with torch.inference_mode():
        loaded = GHN.from_pretrained(tmp_path / "ghn")
    assert not any(weight.is_inference() for weight in loaded.parameters())
