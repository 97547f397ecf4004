"""The configuration of training runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ghnfast.errors import TrainingError
from ghnfast.training import TrainConfig, make_config, read_config


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
        ({"schedule": "linear"}, "schedule is 'linear'; 'step' or 'cosine' or 'constant' is accepted"),
        ({"milestones": [0.9, 0.1]}, r"milestones is \(0.9, 0.1\); rising shares of all steps"),
        ({"amp": "float16"}, "amp is 'float16'; 'bfloat16' or 'none' on the CPU is accepted"),
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
        ("a.json", "{}", r"a\.json; a file with the suffix \.toml, \.yaml, \.yml is accepted"),
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


def test_learning_rates() -> None:
    step = TrainConfig(lr=1.0, schedule="step", milestones=(0.5, 0.75), gamma=0.1)
    assert [step.learning_rate(at, 100) for at in (0, 49, 50, 75)] == pytest.approx([1.0, 1.0, 0.1, 0.01])
    cosine = TrainConfig(lr=1.0, schedule="cosine")
    assert [cosine.learning_rate(at, 100) for at in (0, 50, 100)] == pytest.approx([1.0, 0.5, 0.0])
    warm = TrainConfig(lr=1.0, schedule="constant", warmup=10)
    assert [warm.learning_rate(at, 100) for at in (0, 4, 9, 50)] == pytest.approx([0.1, 0.5, 1.0, 1.0])
