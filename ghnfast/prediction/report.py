"""What a prediction did to a model."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from .plan import Plan, decoded_part


@dataclass(frozen=True)
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
