"""Tries the package with every version of torch from 2.6 on, each in a virtual environment of its own: `make matrix`.

    python .ci/matrix.py                                                     # what this machine has
    python .ci/matrix.py --index-url https://download.pytorch.org/whl/cpu    # CPU builds of every version
    python .ci/matrix.py --torch 2.6.0 2.14.1 --pythons python3.10 python3.13

Of each minor version the newest release is tried, with the first Python; the newest of all with the other Pythons, too.
A build for CUDA brings gigabytes: unless it lies on a disk, it is taken with --cuda alone. What was tried is written
into docs/compatibility.md; rows of what was tried before, on other machines, stay.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "compatibility.md"
BEGIN, END = "<!-- matrix: made by make matrix -->", "<!-- /matrix -->"
HEAD = ["torch", "Python", "result"]
NEEDED = ["hypothesis", "mlxtend", "networkx", "numpy", "pillow", "pytest", "pytest-benchmark", "pyyaml", "safetensors"]
# What depends most on torch: tracing, operators and their gradients, the form of predictions, training.
TESTS = [
    "tests/test_door.py",
    "tests/tracing/test_functions.py",
    "tests/ops/test_sweep.py",
    "tests/ops/test_decode.py",
    "tests/prediction/test_formulas.py",
    "tests/prediction/test_lists.py",
    "tests/nn/test_native.py",
    "tests/training/test_run.py",
    "tests/training/test_step.py",
]
FIRST_MINOR = 6


def minor_of(version: str) -> tuple[int, int]:
    major, minor, *_ = version.split(".")
    return int(major), int(minor)


class Environment:
    """A virtual environment, with a new pip."""

    def __init__(self, folder: Path, python: str) -> None:
        self.folder = folder
        self.python = folder / "bin" / "python"
        if not self.python.exists():
            subprocess.run([python, "-m", "venv", folder], check=True)
            self.pip("install", "--quiet", "--upgrade", "pip")

    def pip(self, *arguments: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        command = [self.python, "-m", "pip", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        if check and done.returncode:
            raise SystemExit(f"{' '.join(map(str, command))} failed:\n{done.stderr}")
        return done


def versions_of(environment: Environment, index: Sequence[str]) -> list[str]:
    """The newest release of each minor version."""
    listed = environment.pip("index", "versions", "torch", *index).stdout
    found = re.search(r"^Available versions: (.*)$", listed, re.M)
    newest: dict[tuple[int, int], str] = {}
    for version in found[1].split(", ") if found else []:
        public = version.partition("+")[0]
        if minor_of(public) >= (2, FIRST_MINOR) and re.fullmatch(r"[\d.]+", public):
            newest.setdefault(minor_of(public), public)
    return sorted(newest.values(), key=minor_of)


def why_not(environment: Environment, version: str, index: Sequence[str], cuda: bool) -> str:
    """Why this version is not to be had here; empty if it is."""
    options = ["--dry-run", "--ignore-installed", "--only-binary", ":all:", "--report", "-", "--quiet"]
    asked = environment.pip("install", *options, *index, f"torch=={version}", check=False)
    if asked.returncode:
        return "not tried: pip finds no build for this Python here, or may not take it"
    packages = json.loads(asked.stdout)["install"]
    brings_cuda = any(package["metadata"]["name"].startswith("nvidia") for package in packages)
    (torch,) = (package for package in packages if package["metadata"]["name"] == "torch")
    if brings_cuda and not cuda and not torch["download_info"]["url"].startswith("file:"):
        return "not tried: the index has a build for CUDA alone, of some gigabytes"
    return ""


def tried(environment: Environment, version: str, index: Sequence[str], wheels: Path) -> str:
    """Installs torch, the package and what tests need, and runs the tests."""
    major, minor = minor_of(version)
    environment.pip("install", "--quiet", "--only-binary", ":all:", *index, f"torch=={version}")
    pins = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("torch")]
    constraints = environment.folder / "constraints.txt"
    constraints.write_text("\n".join(pins))
    environment.pip("install", "--quiet", "--constraint", constraints, *NEEDED)
    # 0.21 belongs to 2.6, 0.22 to 2.7, and so on. By itself, for it would bring its torch.
    vision = f"torchvision=={major - 2}.{minor + 15}.*"
    environment.pip("install", "--quiet", "--no-deps", "--only-binary", ":all:", *index, vision)
    built = sorted(wheels.glob("ghnfast-*.whl"))
    if not built:
        environment.pip("wheel", "--quiet", "--no-deps", "--wheel-dir", wheels, ".")
        built = sorted(wheels.glob("ghnfast-*.whl"))
    environment.pip("install", "--quiet", "--no-deps", "--force-reinstall", built[0])
    # Not `python -m pytest`, and from elsewhere: what tests start, too, would import the sources that lie here.
    command = [environment.folder / "bin" / "pytest", "-q", "-p", "no:cacheprovider", "-c", ROOT / "pyproject.toml"]
    command += ["--rootdir", ROOT, *(ROOT / name for name in TESTS)]
    settings = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=environment.folder, env=settings, capture_output=True, text=True)
    (environment.folder / "tests.log").write_text(done.stdout + done.stderr)
    lines = done.stdout.strip().splitlines() or ["no test ran"]
    counts = re.sub(r" in [\d.]+s.*", "", lines[-1].strip("= "))
    return counts if re.search(r"\d+ passed", counts) else f"failed: {counts}"


def update(text: str, rows: Sequence[Sequence[str]]) -> str:
    """The page with these rows; those that it has of other versions stay."""
    inside = text.split(BEGIN)[1].split(END)[0]
    known = [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in inside.splitlines() if line]
    table = {row[:2]: row[2] for row in known[2:] if len(row) == len(HEAD)}
    table.update({(torch, python): result for torch, python, result in rows})
    order = sorted(table, key=lambda key: (minor_of(key[0]), minor_of(key[1])))
    lines = [HEAD, ["---"] * len(HEAD), *([*key, table[key]] for key in order)]
    made = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return text.replace(f"{BEGIN}{inside}{END}", f"{BEGIN}\n\n{made}\n\n{END}")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch", nargs="*", metavar="VERSION", help="default: every minor version from 2.6 on")
    parser.add_argument(
        "--pythons", nargs="*", help="default: this one, those on PATH from 3.10 on, and those of pyenv"
    )
    parser.add_argument("--index-url", help="of packages of torch; default: pip's")
    parser.add_argument("--cuda", action="store_true", help="builds for CUDA as well, of gigabytes")
    parser.add_argument("--keep", action="store_true", help="the environments, in build/matrix")
    given = parser.parse_args(arguments)
    others = [path for minor in range(10, 15) if (path := shutil.which(f"python3.{minor}"))]
    others += map(str, sorted(Path.home().glob(".pyenv/versions/3.1?.*/bin/python")))
    pythons = given.pythons or [sys.executable, *others]
    index = ["--index-url", given.index_url] if given.index_url else []
    rows: list[tuple[str, str, str]] = []
    for place, python in enumerate(pythons):
        asked = subprocess.run([python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"], capture_output=True)
        name = asked.stdout.decode().strip()
        if not name or name in {row[1] for row in rows}:
            continue
        base = ROOT / "build" / "matrix" / name
        first = Environment(base / "pip", python)
        versions = given.torch or versions_of(first, index)
        for version in versions if place == 0 or given.torch else versions[-1:]:
            result = why_not(first, version, index, given.cuda)
            if not result:
                environment = Environment(base / version, python)
                result = tried(environment, version, index, base / "wheels")
                if not given.keep and "failed" not in result:
                    shutil.rmtree(environment.folder)
            rows.append((version, name, result))
            print(f"torch {version}, Python {name}: {result}", flush=True)
            PAGE.write_text(update(PAGE.read_text(), rows))
    return int(any("failed" in result for _, _, result in rows))


if __name__ == "__main__":
    sys.exit(main())
