"""The examples of search and of embedding run, with settings that take seconds.

Ray is too large to be installed for tests: here the trials of nas_ray.py run without it, in a process of their own.
"""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import numpy as np
import pytest

TINY = ["--trials", "6", "--labels", "12", "--images", "16"]
SEARCHES: dict[str, list[str]] = {"nas_optuna": [], "nas_ray": ["--on", "processes", "--workers", "1"]}


@pytest.mark.filterwarnings("ignore")  # of Optuna
@pytest.mark.parametrize("name", SEARCHES)
def test_searches(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = importlib.import_module(name).main([*TINY, *SEARCHES[name]])
    first, *taus, last = capsys.readouterr().out.splitlines()
    assert re.match(rf"6 trials; the table has {found['known']} of their cells", first)
    assert len(taus) == len(found["taus"]) == (4 if found["known"] > 1 else 0)
    assert last.startswith(f"first by the predictor: {found['best']}")


def test_ray_where_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ModuleNotFoundError, match="ray"):
        importlib.import_module("nas_ray").main(TINY)


def test_vectors_from_several_machines_are_those_of_one(tmp_path: Path) -> None:
    embed_many = importlib.import_module("embed_many")
    options = ["--split", "val", "--size", "21", "--workers", "0"]
    for rank, machines in ((0, 1), (0, 2), (1, 2)):
        out = str(tmp_path / f"{rank}of{machines}")
        embed_many.main([*options, "--rank", str(rank), "--machines", str(machines), "--out", out])
    whole, *parts = (np.load(tmp_path / f"{name}.npz") for name in ("0of1", "0of2", "1of2"))
    assert whole["indices"].tolist() == list(range(21))
    indices = np.concatenate([part["indices"] for part in parts])
    vectors = np.concatenate([part["vectors"] for part in parts])
    np.testing.assert_allclose(vectors[np.argsort(indices)], whole["vectors"], atol=1e-5)


def test_workers_of_a_loader_give_the_same(tmp_path: Path) -> None:
    embed_many = importlib.import_module("embed_many")
    for workers in ("0", "1"):
        embed_many.main(["--split", "val", "--size", "5", "--workers", workers, "--out", str(tmp_path / workers)])
    alone, worker = (np.load(tmp_path / f"{workers}.npz")["vectors"] for workers in ("0", "1"))
    np.testing.assert_array_equal(alone, worker)
