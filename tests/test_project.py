"""The project's own files agree with each other: pyproject.toml, constraints, workflows, hooks, the citation."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
PYTHONS = [
    found[1]
    for classifier in PROJECT["classifiers"]
    if (found := re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", classifier))
]


def read_yaml(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text())


def names_of(requirements: list[str]) -> set[str]:
    return {Requirement(requirement).name for requirement in requirements}


def steps_of(job: dict[str, Any], key: str) -> list[str]:
    return [step[key] for step in job["steps"] if key in step]


def test_classifiers_are_the_versions_that_are_required() -> None:
    minors = [int(version.partition(".")[2]) for version in PYTHONS]
    assert minors == list(range(minors[0], minors[-1] + 1))
    accepted = SpecifierSet(PROJECT["requires-python"])
    assert f"3.{minors[0]}" in accepted
    assert f"3.{minors[0] - 1}" not in accepted


def test_every_version_of_python_is_tested() -> None:
    (job,) = read_yaml(".github/workflows/ci.yml")["jobs"].values()
    assert job["strategy"]["matrix"]["python"] == PYTHONS  # as texts: a number 3.10 would be 3.1
    assert steps_of(job, "with")[-1]["python-version"] == "${{ matrix.python }}"
    assert steps_of(job, "run") == [".ci/run"]
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_every_version_of_python_has_wheels() -> None:
    settings = PYPROJECT["tool"]["cibuildwheel"]
    assert settings["build"] == [f"cp{version.replace('.', '')}-manylinux_*" for version in PYTHONS]
    wheels = read_yaml(".github/workflows/wheels.yml")["jobs"]["wheels"]
    assert [entry["arch"] for entry in wheels["strategy"]["matrix"]["include"]] == ["x86_64", "aarch64"]
    assert any(action.startswith("pypa/cibuildwheel@v") for action in steps_of(wheels, "uses"))


def test_what_wheels_are_tried_with_works(tmp_path: Path) -> None:
    """Outside of the sources, and without a way to the network."""
    program, script = PYPROJECT["tool"]["cibuildwheel"]["test-command"].replace("{project}", str(ROOT)).split()
    assert program == "python"
    offline = dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9")
    done = subprocess.run(
        [sys.executable, script], cwd=tmp_path, env={**os.environ, **offline}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert re.match(r"ghnfast [\d.]+: 5,482 parameters, in ", done.stdout)


@pytest.mark.parametrize("path", sorted((ROOT / ".github" / "workflows").glob("*.yml")), ids=lambda path: path.name)
def test_workflows_may_only_read_and_say_which_version_of_an_action_they_use(path: Path) -> None:
    workflow = yaml.safe_load(path.read_text())
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        assert job["timeout-minutes"] > 0
        assert all(re.fullmatch(r"[\w-]+/[\w-]+@v\d[\d.]*", action) for action in steps_of(job, "uses"))


@pytest.mark.parametrize("version", PYTHONS)
def test_what_is_developed_with_is_pinned_once_for_each_version_of_python(version: str) -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    environment = {"python_version": version, "python_full_version": f"{version}.0"}
    pinned = [pin.name for pin in pins if pin.marker is None or pin.marker.evaluate(environment)]
    assert len(pinned) == len(set(pinned))
    assert all(str(pin.specifier).startswith("==") for pin in pins)
    needed = {"pip"} | names_of(PROJECT["dependencies"]) | names_of(PYPROJECT["build-system"]["requires"])
    for extra in PROJECT["optional-dependencies"].values():
        needed |= names_of(extra)
    assert needed == set(pinned)


def test_hooks_are_the_programs_of_lint() -> None:
    (repository,) = read_yaml(".pre-commit-config.yaml")["repos"]
    assert repository["repo"] == "local"
    hooks = {hook["id"]: hook for hook in repository["hooks"]}
    assert list(hooks) == ["ruff", "ruff-format", "clang-format", "mypy"]
    programs = [hook["entry"].split()[0] for hook in hooks.values()]
    assert set(programs) == {".venv/bin/ruff", ".venv/bin/clang-format", ".venv/bin/mypy"}
    lint = re.search(r"^lint:.*?\n\n", (ROOT / "Makefile").read_text(), re.M | re.S)
    assert lint is not None
    assert set(programs) == {f".venv/bin/{name}" for name in re.findall(r"\$\(BIN\)/([\w-]+)", lint[0])}


@pytest.mark.parametrize(
    ("path", "matches"),
    [
        ("csrc/core/isa.cpp", True),
        ("csrc/core/isa.hpp", True),
        ("kernels/chain.cu", True),
        ("tests/support/helpers/emulator.hpp", True),
        ("ghnfast/_C.pyi", False),
        ("build/csrc/a.cpp", False),
    ],
)
def test_the_hook_of_c_plus_plus_formats_what_lint_checks(path: str, matches: bool) -> None:
    (repository,) = read_yaml(".pre-commit-config.yaml")["repos"]
    (hook,) = (hook for hook in repository["hooks"] if hook["id"] == "clang-format")
    assert (re.search(hook["files"], path) is not None) == matches


def test_addresses_of_the_project() -> None:
    urls = PROJECT["urls"]
    assert list(urls) == ["Homepage", "Repository", "Documentation", "Changelog"]
    assert all(url.startswith(urls["Repository"]) for url in urls.values())
    assert urls["Repository"].startswith("https://github.com/")
    assert (ROOT / urls["Changelog"].rpartition("/")[2]).exists()


def test_the_citation_is_of_this_version_and_names_the_papers() -> None:
    citation = read_yaml("CITATION.cff")
    assert str(citation["version"]) == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]
    assert citation["repository-code"] == PROJECT["urls"]["Repository"]
    assert [(paper["title"], paper["year"]) for paper in citation["references"]] == [
        ("Parameter Prediction for Unseen Deep Architectures", 2021),
        ("Can We Scale Transformers to Predict Parameters of Diverse ImageNet Models?", 2023),
    ]
    assert all(paper["authors"][0]["family-names"] == "Knyazev" for paper in citation["references"])


def test_the_recipe_for_conda_is_of_this_project() -> None:
    recipe = read_yaml("packaging/conda/recipe.yaml")
    assert recipe["context"]["version"] == PROJECT["version"]
    assert recipe["about"]["summary"] == PROJECT["description"]
    assert recipe["about"]["license"] == PROJECT["license"]
    wanted = {f"{each.name} {each.specifier}" for each in map(Requirement, PROJECT["dependencies"])}
    run = [line.replace("pytorch ", "torch ") for line in recipe["requirements"]["run"]]
    assert set(run) == {"python", *wanted}
    builders = {f"{each.name} {each.specifier}" for each in map(Requirement, PYPROJECT["build-system"]["requires"])}
    assert builders <= set(recipe["requirements"]["host"])
    assert f"cmake {PYPROJECT['tool']['scikit-build']['cmake']['version']}" in recipe["requirements"]["build"]
    (script,) = (test for test in recipe["tests"] if "script" in test)
    assert all((ROOT / file).is_file() for file in script["files"]["source"])


def test_the_source_distribution_has_what_is_built_and_nothing_of_the_tests(tmp_path: Path) -> None:
    code = f"from scikit_build_core.build import build_sdist; print(build_sdist({str(tmp_path)!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    with tarfile.open(tmp_path / done.stdout.split()[-1]) as archive:
        found = {path for name in archive.getnames() if (path := name.partition("/")[2])}
    tops = {path.partition("/")[0] for path in found}
    folders = {"csrc", "examples", "ghnfast", "kernels"}
    assert tops - folders == {
        "CHANGELOG.md", "CITATION.cff", "CMakeLists.txt", "CONTRIBUTING.md", "LICENSE", "Makefile", "PKG-INFO",
        "README.md", "constraints.txt", "pyproject.toml",
    }  # fmt: skip
    kinds = (".cpp", ".hpp", ".py", ".pyi", ".typed", ".safetensors", ".toml", ".jsonl")
    for folder in folders:
        needed = [path for path in (ROOT / folder).rglob("*") if path.suffix in kinds or path.name == "py.typed"]
        names = {
            str(path.relative_to(ROOT)) for path in needed if path.relative_to(ROOT).parts[:2] != ("ghnfast", "kernels")
        }
        assert names
        assert names <= found, folder
