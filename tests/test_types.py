"""The public names as type checkers see them."""

from __future__ import annotations

from pathlib import Path

from mypy import api

HERE = Path(__file__).parent


def test_results_have_their_types() -> None:
    """Nothing is `Any`: mypy knows the result for a model and for a list of models, with and without a report."""
    settings = ["--config-file", str(HERE.parent / "pyproject.toml"), "--warn-unused-ignores"]
    output, errors, status = api.run([*settings, "--follow-imports=silent", str(HERE / "typed" / "public.py")])
    assert status == 0, output + errors
