"""Fine-tunes networks from several starts, into bench/results/transfer-NAME.json: python bench/transfer.py NAME ...

For each network and each start this is `ghnfast finetune`, whose options it takes, too:

    python bench/transfer.py fashion-to-mnist5k --data mnist5k --postprocess both --start he --start random \\
        --start ghn2=default --start ghn1=runs/ghn1/ghn.safetensors --start sgd1000=1000@fashion
    python bench/transfer.py curves-fashion --data fashion --network resnet50 --start he --start ghn2=default \\
        --shots all --steps 2000 --evaluate-at 50,100,200,500,1000,2000 --batch-statistics recalibrated

A start is NAME=INIT, with an INIT of `ghnfast finetune`, or STEPS@DATA for a network that SGD has trained on other
images; NAME alone is both. A repeated command goes on where it was: results of each training are kept in --work.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from accuracy import FOLDER, git, machine, write
from safetensors.torch import save

from ghnfast.cli import main as ghnfast
from ghnfast.cli.models import find_model
from ghnfast.files import replacing
from ghnfast.randomness import drawing_from
from ghnfast.training import load_data
from ghnfast.training.data import Batches
from ghnfast.training.evaluate import fit

Json = dict[str, Any]
RESULTS = FOLDER / "results"
# The networks of the paper's experiment.
NETWORKS = {"resnet50": "predefined:0", "ViT": "predefined:1", "DARTS": "DARTS:48,14"}
POSTPROCESS = {"no": (False,), "yes": (True,), "both": (False, True)}
PRETRAINING_BATCH = 96


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("--network", action="append", help=f"{', '.join(NETWORKS)}, or a MODEL; default: these")
    parser.add_argument("--start", action="append", metavar="NAME=INIT", required=True)
    parser.add_argument("--postprocess", choices=POSTPROCESS, default="no")
    parser.add_argument("--work", type=Path, help="default: runs/transfer/NAME")
    given, options = parser.parse_known_args(arguments)
    work = given.work or Path("runs") / "transfer" / given.name
    work.mkdir(parents=True, exist_ok=True)
    target = RESULTS / f"transfer-{given.name}.json"
    for network in given.network or NETWORKS:
        for start in given.start:
            name, _, source = start.partition("=")
            for processed in POSTPROCESS[given.postprocess]:
                label = name + (" + post" if processed else "")
                out = work / f"{safe(network)}-{safe(label)}.json"
                model = NETWORKS.get(network, network)
                init = pretrained(model, source or name, work / f"{safe(network)}-{safe(name)}.safetensors")
                command = [model, "--init", init, *options, "--out", str(out)]
                code = ghnfast(["finetune", *command, *(["--postprocess"] if processed else [])])
                if code:
                    return code
                keep(target, network, label, json.loads(out.read_text()), arguments)
    return 0


def safe(name: str) -> str:
    """A name that a file can have."""
    return re.sub(r"[^\w.+-]+", "_", name)


def pretrained(model: str, source: str, path: Path) -> str:
    """An INIT: what was given, or the file of a network that SGD has trained for STEPS on DATA."""
    found = re.fullmatch(r"(\d+)@(\w+)", source)
    if found is None:
        return source
    if not path.exists():
        data = load_data(found[2], validation=False)
        build = find_model(model, data.num_classes)
        with drawing_from(0):
            network = build()
        fit(network, Batches(data.train, PRETRAINING_BATCH, 0), int(found[1]))
        with replacing(path) as file:  # a part would be taken for the whole by the next call
            file.write(save(network.state_dict()))
    return str(path)


def keep(target: Path, network: str, label: str, results: Json, arguments: list[str]) -> None:
    """Add results to the file of all."""
    about = {
        "options": " ".join(arguments),
        "machine": machine(),
        "torch": version("torch"),
        "python": platform.python_version(),
        "commit": git("rev-parse", "HEAD"),
        "dirty": bool(git("status", "--porcelain", "--untracked-files=no", "--", "../ghnfast")),
        "date": time.strftime("%Y-%m-%d"),
    }
    known: Json = json.loads(target.read_text()) if target.exists() else {}
    before = known.get(network, {}).get(label)
    if before is None or {key: value for key, value in before.items() if key != "about"} != results:
        known.setdefault(network, {})[label] = {**results, "about": about}
        write(target, known)


# The site's section --------------------------------------------------------------------------------------------------


def transfer_text(folder: Path = RESULTS) -> str:
    """Tables of all results: a row a start, a column a network; and the curves, a column a step."""
    parts = []
    for file in sorted(folder.glob("transfer-*.json")):
        results: Json = json.loads(file.read_text())
        name = file.stem.removeprefix("transfer-")
        parts.append(f"{name}, {images_text(results)}:\n\n{accuracy_table(results)}")
        parts += [
            f"{name}, {network}, at each start's best rate, after so many steps:\n\n{curve_table(rows)}"
            for network, rows in results.items()
            if any(row["curve"] for row in rows.values())
        ]
    return "\n\n".join(parts) or "Transfer has not been measured yet."


def images_text(results: Json) -> str:
    row = next(iter(next(iter(results.values())).values()))
    trained, held_out, tested = row["settings"]["images"]
    given = row["about"]["options"].split()
    one = "--rates" in given and "," not in given[given.index("--rates") + 1]
    chosen = "at one rate for all" if one else f"rates chosen on {held_out} others"
    measured: dict[str, list[str]] = {}  # networks, by where
    for network, rows in results.items():
        about = next(iter(rows.values()))["about"]
        commits = " and ".join(dict.fromkeys(each["about"]["commit"][:7] for each in rows.values()))
        measured.setdefault(f"on {about['machine']}, commit {commits}", []).append(network)
    where = [f"{', '.join(networks)} {place}" if len(measured) > 1 else place for place, networks in measured.items()]
    return (
        f"{trained:,} training images of {row['settings']['data']}, {chosen}, top-1 accuracy "
        f"in percent on {tested:,} test images, mean and standard error over seeds ({'; '.join(where)})"
    )


def accuracy_table(results: Json) -> str:
    starts = list(dict.fromkeys(start for rows in results.values() for start in rows))
    lines = [["start", *results]]
    for start in starts:
        lines.append([start, *(cell_text(rows.get(start)) for rows in results.values())])
    return markdown(lines)


def cell_text(row: Json | None) -> str:
    if row is None:
        return "-"
    edge = ", at the edge" if row["at_edge"] else ""
    return f"{row['mean']:.1f} +- {row['stderr']:.1f} (n {row['n']}, rate {row['rate']:g}{edge})"


def curve_table(rows: Json) -> str:
    steps = sorted({step for row in rows.values() for step, _, _ in row["curve"]})
    lines = [["start", *map(str, steps)]]
    for start, row in rows.items():
        found = {step: f"{mean:.1f} +- {error:.1f}" for step, mean, error in row["curve"]}
        lines.append([start, *(found.get(step, "-") for step in steps)])
    return markdown(lines)


def markdown(lines: list[list[str]]) -> str:
    head = [lines[0], ["---", *["---:"] * (len(lines[0]) - 1)]]
    return "\n".join(f"| {' | '.join(line)} |" for line in [*head, *lines[1:]])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
