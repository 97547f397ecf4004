"""The configuration of training runs."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.tiny import TINY
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ghnfast.errors import GhnfastError, TrainingError
from ghnfast.nn.config import config_of
from ghnfast.training import TrainConfig, make_config, read_config
from ghnfast.training.config import RECIPES


def test_strings_are_read_as_what_they_stand_for() -> None:
    config = make_config(
        {"lr": "1e-2", "ve": "false", "num_ch": "8,16", "steps": "7", "milestones": "[0.5]", "data": "x"}
    )
    assert (config.lr, config.ve, config.num_ch, config.steps, config.milestones) == (0.01, False, (8, 16), 7, (0.5,))
    assert config.data == "x"
    assert make_config({"lr": 1}).lr == 1.0


@pytest.mark.parametrize("suffix", [".toml", ".yaml"])
def test_files(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"config{suffix}"
    colon = ": " if suffix == ".yaml" else " = "
    path.write_text(f"lr{colon}0.5\nnum_ch{colon}[16, 32]\nve{colon}false\n")
    config = make_config(read_config(path))
    assert (config.lr, config.num_ch, config.ve) == (0.5, (16, 32), False)


@pytest.mark.parametrize("suffix", [".toml", ".yaml"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("text", ["", "# lr\n", "# \xe4\n\nlr = 0.5\n"])
def test_files_as_editors_write_them(tmp_path: Path, suffix: str, encoding: str, end: str, text: str) -> None:
    path = tmp_path / f"config{suffix}"
    text = text.replace(" = ", ": ") if suffix == ".yaml" else text
    path.write_bytes(text.replace("\n", end).encode(encoding))
    assert read_config(path) == ({"lr": 0.5} if "0.5" in text else {})


@pytest.mark.parametrize("text", [".001", "0.001", "1e-3", " 1E-3"])
def test_numbers_from_the_command_line(text: str) -> None:
    assert make_config({"lr": text}).lr == 0.001


def test_a_saved_configuration_is_read_back(tmp_path: Path) -> None:
    config = make_config({"milestones": "0.1,0.9", "data": 'a "quoted" name', "amp": "bfloat16"})
    (tmp_path / "config.toml").write_text(config.as_toml())
    assert make_config(read_config(tmp_path / "config.toml")) == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"learning_rate": 1.0}, "the configuration has no 'learning_rate'"),
        ({"stesp": 1}, "the configuration has no 'stesp'; did you mean steps?"),
        ({"lr": "fast"}, "lr is 'fast'; a number is accepted"),
        ({"lr": "inf"}, "lr is inf; a number is accepted"),
        ({"lr": "nan"}, "lr is nan; a number is accepted"),
        ({"lr": -1}, "lr is -1.0; a positive number is accepted"),
        ({"ve": 1}, "ve is 1; true or false is accepted"),
        ({"steps": 2.5}, "steps is 2.5; an integer is accepted"),
        ({"num_ch": "8"}, r"num_ch is \[8\]; a list of 2 numbers is accepted"),
        ({"num_ch": [8, "many"]}, "num_ch is 'many'; an integer is accepted"),
        ({"batch_size": 0}, "batch_size is 0; a positive number is accepted"),
        ({"batch_size": 1}, r"batch_size is 1; 2 or more \(one image has no batch statistics\) is accepted"),
        ({"schedule": "linear"}, "schedule is 'linear'; 'step' or 'cosine' or 'cosine-warmup' or 'constant' is"),
        ({"milestones": [0.9, 0.1]}, r"milestones is \(0.9, 0.1\); rising shares of all steps"),
        ({"amp": "float16"}, "amp is 'float16'; 'bfloat16' or 'none' on the CPU is accepted"),
        ({"schedule": "cosine-warmup", "epochs": 6}, "epochs is 6; more than 6, with the schedule 'cosine-warmup', is"),
        ({"schedule": "cosine-warmup", "steps": 9, "epochs": 0}, "epochs is 0; more than 6"),
        ({"steps": 0, "epochs": 0}, "steps is 0; a positive number, or epochs, is accepted"),
        ({"label_smoothing": 1.0}, "label_smoothing is 1.0; 0 or more, below 1, is accepted"),
    ],
)
def test_what_is_not_accepted(values: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        make_config(values)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", "{}", r"a\.json; a file with the suffix \.toml, \.yaml, \.yml, or one of ghn3-cifar10"),
        ("a.toml", "lr = = 1", "is no TOML"),
        ("a.yaml", "lr: [1", "is no YAML"),
        ("a.yaml", "- 1\n- 2", "is no table of names and values"),
        ("missing.toml", None, "cannot be read"),
    ],
)
def test_files_that_are_not_accepted(tmp_path: Path, name: str, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(TrainingError, match=message):
        read_config(tmp_path / name)


@pytest.mark.parametrize("wrong", [None, 3, b"a.toml", [("lr", 1)]])
def test_kinds_that_are_not_accepted(wrong: Any) -> None:
    with pytest.raises(TrainingError, match=r"the configuration is .*; a table of names and values is accepted"):
        make_config(wrong)
    with pytest.raises(TrainingError, match=r"the configuration is .*; the path of a file is accepted"):
        read_config(wrong)


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_configurations(name: str) -> None:
    config = make_config(read_config(name))
    assert (config.hypernet, config.optimizer, config.schedule) == ("graphormer", "adamw", "cosine-warmup")
    small = dataclasses.replace(config, device="cpu", amp="none")
    assert config_of(small, 10).as_dict()["heads"] == 8


def test_learning_rates() -> None:
    step = TrainConfig(lr=1.0, schedule="step", milestones=(0.5, 0.75), gamma=0.1)
    assert [step.learning_rate(at, 100) for at in (0, 49, 50, 75)] == pytest.approx([1.0, 1.0, 0.1, 0.01])
    cosine = TrainConfig(lr=1.0, schedule="cosine")
    assert [cosine.learning_rate(at, 100) for at in (0, 50, 100)] == pytest.approx([1.0, 0.5, 0.0])
    ghn3 = TrainConfig(lr=4e-4, schedule="cosine-warmup", epochs=75)  # 100 steps an epoch
    found = [ghn3.learning_rate(100 * epoch + 50, 7500) for epoch in range(75)]
    wanted = [*np.linspace(1e-5, 4e-4, 5)[:4], *(4e-4 * (1 + np.cos(np.pi * (e - 5) / 70)) / 2 for e in range(4, 75))]
    assert found == pytest.approx(wanted, rel=1e-12)
    least = TrainConfig(schedule="cosine-warmup", epochs=7)
    assert min(least.learning_rate(step, 70) for step in range(70)) >= 1e-5
    warm = TrainConfig(lr=1.0, schedule="constant", warmup=10)
    assert [warm.learning_rate(at, 100) for at in (0, 4, 9, 50)] == pytest.approx([0.1, 0.5, 1.0, 1.0])


@settings(max_examples=300, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40))
@example(text='emoji \U0001f600 "quotes" \\back\\slashes\\ \x7f \x1f \x85 \u2028 \ud7ff \ue000 \r\n\t')
@example(text="'''\"\"\" # = [a] \\u0041 \\U0001F600")
def test_any_text_in_a_configuration_comes_back(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    config = make_config({"root": text, "init": text})
    path = tmp_path_factory.mktemp("config") / "config.toml"
    path.write_bytes(config.as_toml().encode())
    assert make_config(read_config(path)) == config


@settings(max_examples=100, deadline=None)
@given(
    lr=st.floats(1e-300, 1e300), weight_decay=st.floats(0, 1e300), seed=st.integers(0, (1 << 64) - 1),
    milestones=st.lists(st.floats(1e-9, 0.999), max_size=5).map(sorted), steps=st.integers(1, (1 << 63) - 1),
)  # fmt: skip
def test_any_numbers_in_a_configuration_come_back(tmp_path_factory: pytest.TempPathFactory, **values: Any) -> None:
    config = make_config(values)
    path = tmp_path_factory.mktemp("config") / "config.toml"
    path.write_bytes(config.as_toml().encode())
    assert make_config(read_config(path)) == config


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=9)
    | st.just(10**23)
    | st.just(-(10**400)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@settings(max_examples=300, deadline=None)
@given(name=st.sampled_from([*TINY, "seed", "root", "milestones", "amp", "device", "workers", "networks", "gamma"]),
       value=JSON)  # fmt: skip
@example(name="seed", value=10**23)
@example(name="seed", value="1" + "0" * 5000)
@example(name="lr", value=10**400)
@example(name="max_shape", value="[" * 100_000)
@example(name="root", value="\udcff")
@example(name="root", value="\0")
def test_any_value_is_accepted_or_an_error_of_ours(name: str, value: Any) -> None:
    message = ""
    try:
        make_config({name: value})
    except GhnfastError as error:
        message = str(error)
    assert len(message) < 2000


@settings(max_examples=200, deadline=None)
@given(content=st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode(errors="replace")),
       suffix=st.sampled_from([".toml", ".yaml"]))  # fmt: skip
@example(content=b"a = " + b"[" * 100_000, suffix=".toml")
@example(content=b"a: " + b"[" * 10_000, suffix=".yaml")
@example(content=b"a: 2020-99-99", suffix=".yaml")
@example(content=b"1: 2", suffix=".yaml")
@example(content=b"lr = 0.1\n" + b"\0" * 512, suffix=".toml")
@example(content=b"\xff\xfe", suffix=".toml")
def test_any_file_is_a_configuration_or_an_error_of_ours(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, suffix: str
) -> None:
    path = tmp_path_factory.mktemp("config") / f"config{suffix}"
    path.write_bytes(content)
    with contextlib.suppress(GhnfastError):
        make_config(read_config(path))
