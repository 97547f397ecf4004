"""`ghnfast ghns`: the GHNs that have names."""

from __future__ import annotations

import argparse
import json
from typing import Any

from ..checkpoints import available, local_file


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "ghns",
        help="list the GHNs that have names",
        description="List the GHNs that have names, what each was trained on, and where its file is. Others are given "
        "by their files.",
    )
    parser.add_argument("--json", action="store_true", help="print a list of JSON objects")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> str:
    rows = []
    for name, about in available().items():
        file = local_file(name)
        rows.append({"name": name, "about": about, "file": None if file is None else str(file)})
    if arguments.json:
        return json.dumps(rows)
    width, wide = (max(len(str(row[key])) for row in rows) for key in ("name", "about"))
    return "\n".join(
        f"{row['name']:{width}}  {row['about']:{wide}}  {row['file'] or 'is downloaded on first use'}" for row in rows
    )
