"""Forward passes on a GPU as recordings of their launches (CUDA graphs), for graphs that are predicted again.

Launching kernel by kernel takes the host longer than the kernels take. A recording is one launch, and it can come
first, before anything is known of the models: it depends on their graph alone. It has memory of its own, so one
prediction at a time can use it; another one meanwhile launches as it would without.
"""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING

import torch

from ..errors import BackendError
from ..graph import GraphBatch
from ..kernels import driver
from ..ops.sweep import sweep_asked_for
from ..ops.uploads import is_capturing
from ..prediction.layout import Layout

if TYPE_CHECKING:
    from .forward import Forward, Prepared

# How many are kept of a GHN; after how many launches of a graph there will be more; elements of the memory of one.
KEPT, AFTER, MOST_ELEMENTS = 8, 2, 1 << 24
RUNS = "runs"  # the key of a number among launches


class Recorded:
    """A forward pass, recorded, and what it is for: a batch, a layout, a stream, a choice of sweeps."""

    def __init__(self, forward: Forward, batch: GraphBatch, layout: Layout) -> None:
        self.forward, self.batch, self.layout = forward, batch, layout
        self.room = forward.room()
        self.source = forward.source(self.room, layout)
        self.stream, self.asked = stream_on(forward.form.device), sweep_asked_for()
        self.recording = forward.recorded(self.room)
        self.user: weakref.ref[Use] | None = None

    def is_free(self) -> bool:
        return self.user is None or self.user() is None

    def fits(self, batch: GraphBatch, prepared: Prepared | None) -> bool:
        """Whether launching it now is what `Forward.launch` would do."""
        forward = self.forward
        same = self.batch is batch and forward.prepared is prepared and self.asked == sweep_asked_for()
        return same and self.stream == stream_on(forward.form.device)


class Use:
    """Of a recording, by one prediction, until nobody has it any more. An interrupt cannot keep it from ending."""

    def __init__(self, recorded: Recorded) -> None:
        self.recorded = recorded


class Recordings:
    """Those of one GHN in one state of its weights, the last ones used at the end."""

    def __init__(self) -> None:
        self.kept: list[Recorded] = []
        self.refused = False
        self.lock = threading.Lock()

    def begin(self, batch: GraphBatch, prepared: Prepared | None) -> Use | None:
        """Launch the recording of a batch, where there is one that nobody else uses."""
        if not self.kept:
            return None
        with self.lock:
            found = next((each for each in reversed(self.kept) if each.fits(batch, prepared)), None)
            if found is None or not found.is_free() or found.forward.prepared.has_hooks():
                return None
            use = self.take(found)
        found.recording.launch()
        return use

    def record(self, forward: Forward, batch: GraphBatch, layout: Layout) -> Use | None:
        """Record a forward pass that was launched often enough, and launch it."""
        runs: int = forward.launches.get(RUNS, 0) + 1
        forward.launches[RUNS] = runs
        if runs <= AFTER or self.refused or not can_be_recorded(forward):
            return None
        if any(each.layout is layout and each.fits(batch, forward.prepared) for each in self.kept):
            return None  # another prediction has it
        try:
            made = Recorded(forward, batch, layout)
        except BackendError:
            self.refused = True  # by the driver: then each launch by itself, as before
            return None
        with self.lock:
            self.kept = [*self.kept[max(0, len(self.kept) - KEPT + 1) :], made]
            use = self.take(made)
        made.recording.launch()
        return use

    def take(self, recorded: Recorded) -> Use:
        use = Use(recorded)
        recorded.user = weakref.ref(use)
        return use


def stream_on(device: torch.device) -> int:
    return driver.current_stream(driver.number_of(device))


def can_be_recorded(forward: Forward) -> bool:
    """Whether launching allocates nothing (a sweep in Triton does), on a GPU, in memory that can be spared."""
    device = forward.form.device
    if device.type != "cuda" or is_capturing(device) or forward.prepared.has_hooks():
        return False
    allocates = forward.topology is not None and forward.walk is None
    return forward.plan.elements <= MOST_ELEMENTS and not allocates
