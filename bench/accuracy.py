"""Measures how good parameters are, into bench/results/accuracy-NAME.json: python bench/accuracy.py NAME OPTIONS.

OPTIONS are those of `ghnfast evaluate`. Beside its results stand the machine, versions, the commit and the options.
Splits that the file has already stay in it, so that they can be measured one by one; with `--networks`, so do the other
networks of a split: where a change concerns some networks, these are measured again.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from ghnfast.cli import main as ghnfast
from ghnfast.cli.evaluate import parse_numbers
from ghnfast.files import replacing
from ghnfast.training.evaluate import summary

Json = dict[str, Any]
FOLDER = Path(__file__).resolve().parent
RESULTS = FOLDER / "results"


def machine() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {torch.get_num_threads()} threads"


def git(*arguments: str) -> str:
    ran = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True, cwd=FOLDER)
    return ran.stdout.strip()


def write(target: Path, results: Json) -> None:
    """Whole or not at all: results of days are in such a file."""
    with replacing(target) as file:
        file.write((json.dumps(results, indent=1) + "\n").encode())


def again(before: dict[str, Any], result: dict[str, Any], about: dict[str, Any]) -> dict[str, Any]:
    """The results of a split with some networks measured again; it is said which, and on what the others were."""
    text = about["options"].split()
    chosen = parse_numbers(text[text.index("--networks") + 1])
    accuracies = list(before["networks"])
    for index, accuracy in zip(chosen, result["networks"], strict=True):
        accuracies[index] = accuracy
    kept = {key: before[key] for key in ("seconds", "about")}
    return {**summary(accuracies), **kept, "again": [*before.get("again", []), {"networks": chosen, "about": about}]}


def main(name: str, options: list[str]) -> int:
    target = RESULTS / f"accuracy-{name}.json"
    # Before the work, which may take hours: what it was done with, and whether that can be told.
    commit = {
        "commit": git("rev-parse", "HEAD"),
        "dirty": bool(git("status", "--porcelain", "--untracked-files=no", "--", "../ghnfast")),
    }
    start = time.time()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "results.json"
        code = ghnfast(["evaluate", *options, "--json", str(file)])
        if code:
            return code
        results = json.loads(file.read_text())
    about = {
        "options": " ".join(option.replace(os.getcwd() + os.sep, "") for option in options),
        "machine": machine(),
        "torch": version("torch"),
        "python": platform.python_version(),
        **commit,
        "date": time.strftime("%Y-%m-%d"),
        "minutes": round((time.time() - start) / 60, 1),
    }
    known = json.loads(target.read_text()) if target.exists() else {}
    for split, result in results.items():
        known[split] = again(known[split], result, about) if "--networks" in options else {**result, "about": about}
    write(target, known)
    return 0


if __name__ == "__main__":
    if len(sys.argv) < 2 or re.fullmatch(r"[a-z0-9][a-z0-9-]*", sys.argv[1]) is None:
        sys.exit(f"{__doc__}\nNAME is of small letters, digits and hyphens, as in fashion-ghn2.")
    sys.exit(main(sys.argv[1], sys.argv[2:]))
