"""Measures how good parameters are, into bench/results/accuracy-NAME.json: python bench/accuracy.py NAME OPTIONS.

OPTIONS are those of `ghnfast evaluate`. Beside its results stand the machine, versions, the commit and the options.
Splits that the file has already stay in it, so that they can be measured one by one.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import torch

from ghnfast.cli import main as ghnfast

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
    known.update({split: {**result, "about": about} for split, result in results.items()})
    target.write_text(json.dumps(known, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
