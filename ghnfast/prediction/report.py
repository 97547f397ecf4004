"""What a prediction did to a model."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from html import escape

from torch import Tensor

from .plan import Plan, decoded_part

SHOWN = 3  # as many names of a kind as a notebook shows


@dataclass(frozen=True, repr=False)
class Report:
    """What a prediction did to one model.

    predicted: the names of the parameters that were predicted, in the model's order.
    skipped: {name: reason} of those that kept their values.
    partly: {name: parts} of those that were predicted in part, where layers use them: the parts in Python's notation.
        The rest of them kept its values.
    predicted_elements, elements: how many numbers were predicted, of how many.
    ran_on_numbers: why the forward had to be run on random numbers, or None where shapes were enough.
    """

    predicted: list[str]
    skipped: dict[str, str]
    predicted_elements: int
    elements: int
    ran_on_numbers: str | None = None
    partly: dict[str, list[str]] = field(default_factory=dict)

    @property
    def coverage(self) -> float:
        """The share of the model's numbers that were predicted, 0 to 1; 1 where it has none."""
        return self.predicted_elements / self.elements if self.elements else 1.0

    @property
    def share(self) -> str:
        """The coverage in words."""
        # Not rounded up: 100 % is all of them.
        percent = int(10_000 * self.coverage) / 100
        return f"{percent:g} % of {self.elements:,} numbers predicted"

    def __repr__(self) -> str:
        kept = "; ".join(f"{reason} ({count})" for reason, count in Counter(self.skipped.values()).most_common())
        tensors = f"; kept {len(self.skipped)} of {len(self.skipped) + len(self.predicted)} tensors: {kept}"
        return f"Report({self.share}{tensors if kept else ''})"

    def _repr_html_(self) -> str:
        """What notebooks show: the coverage, and what was kept, by reason."""
        rows = []
        for reason, count in Counter(self.skipped.values()).most_common():
            names = [name for name, own in self.skipped.items() if own == reason]
            shown = ", ".join(names[:SHOWN]) + (f" and {count - SHOWN} more" if count > SHOWN else "")
            rows.append(
                f"<tr><td>{count}</td><td style='text-align:left'>{escape(reason)}</td>"
                f"<td style='text-align:left'><code>{escape(shown)}</code></td></tr>"
            )
        head = "<tr><th>tensors kept</th><th style='text-align:left'>because of this</th><th></th></tr>"
        table = f"<table><thead>{head}</thead><tbody>{''.join(rows)}</tbody></table>" if rows else ""
        ran = "" if self.ran_on_numbers is None else f"<br/>It ran on random numbers: {escape(self.ran_on_numbers)}"
        counts = f"{len(self.predicted)} of {len(self.predicted) + len(self.skipped)} tensors"
        counts += f", {len(self.partly)} of them in part" if self.partly else ""
        return f"<div><b>{self.share}</b> ({counts}){ran}{table}</div>"


def make_report(plan: Plan) -> Report:
    slots, sizes = plan.slots, dict(zip(plan.members.names, map(Tensor.numel, plan.members.parameters), strict=True))
    done: dict[str, int] = {}
    partly: dict[str, list[str]] = {}
    for row, parameter in zip(plan.rows.tolist(), plan.parameters, strict=True):
        name = slots.names[row]
        if name in slots.reparametrized:
            done.update((own, sizes[own]) for own in slots.reparametrized[name].originals)
            continue
        count = decoded_part(slots.forms[row], parameter).numel()
        if name in slots.slices:
            name, label = slots.slices[name].parameter, slots.slices[name].label
            partly.setdefault(name, []).append(label)
            count += done.get(name, 0)
        done[name] = count
    names = plan.members.names
    return Report(
        predicted=[name for name in names if name in done],
        skipped={name: plan.skipped[name] for name in names if name in plan.skipped},
        predicted_elements=sum(done.values()),
        elements=sum(sizes.values()),
        ran_on_numbers=slots.ran_on_numbers,
        partly={name: parts for name, parts in partly.items() if done[name] < sizes[name]},
    )
