"""Forward passes on a GPU as recordings of their launches (CUDA graphs), for graphs that are predicted again.

Launching kernel by kernel takes the host longer than the kernels take. A recording is one launch, and it can come
first, before anything is known of the models: it depends on their graph alone. It has memory of its own, so one
prediction at a time can use it; another one meanwhile launches as it would without.
"""

from __future__ import annotations

import threading
import weakref
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch

from ..errors import BackendError
from ..graph import GraphBatch
from ..kernels import driver
from ..ops.sweep import sweep_asked_for
from ..ops.uploads import is_capturing
from ..prediction.layout import Layout

if TYPE_CHECKING:
    from .forward import Forward, Prepared

# How many are kept of a GHN; after how many launches of a graph there will be more; how many times as many it takes
# where one was not kept, for recording takes longer than launching; elements of the memory of one.
KEPT, AFTER, PATIENCE, MOST_ELEMENTS = 8, 2, 4, 1 << 24


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


@dataclass
class Count:
    """Launches of a graph one by one, and how many it takes until there is a recording."""

    launches: int = 0
    needed: int = field(default_factory=lambda: AFTER)


class Recordings:
    """Those of one GHN in one state of its weights, the last ones used at the end."""

    def __init__(self) -> None:
        self.kept: list[Recorded] = []
        self.counts: WeakKeyDictionary[Layout, dict[int, Count]] = WeakKeyDictionary()  # by stream
        self.refused = False
        self.lock = threading.Lock()

    def count(self, forward: Forward, layout: Layout) -> None:
        """A forward pass was launched one by one."""
        self.count_of(layout, stream_on(forward.form.device)).launches += 1

    def count_of(self, layout: Layout, stream: int) -> Count:
        return self.counts.setdefault(layout, {}).setdefault(stream, Count())

    def begin(self, batch: GraphBatch, prepared: Prepared | None) -> Use | None:
        """Launch the recording of a batch that was used last, where there is one that nobody else uses."""
        if not self.kept or prepared is None or prepared.has_hooks():
            return None
        with self.lock:
            found = next((each for each in reversed(self.kept) if each.fits(batch, prepared)), None)
            use = self.take(found)
        return self.launched(use)

    def record(self, forward: Forward, batch: GraphBatch, layout: Layout) -> Use | None:
        """Launch the recording of a forward pass that was launched often enough; make it, where there is none yet."""
        if self.refused or not can_be_recorded(forward):
            return None
        with self.lock:
            known = self.known(forward, batch, layout)
            use = self.take(known)
        if known is None:
            count = self.count_of(layout, stream_on(forward.form.device))
            if count.launches < count.needed:
                return None
            count.launches, count.needed = 0, PATIENCE * count.needed
            try:
                made = Recorded(forward, batch, layout)
            except BackendError:
                self.refused = True  # then each launch by itself, as before
                return None
            with self.lock:
                if self.known(forward, batch, layout) is None:  # else another thread was faster
                    self.kept = [*self.kept[max(0, len(self.kept) - KEPT + 1) :], made]
                use = self.take(made)
        return self.launched(use)

    def known(self, forward: Forward, batch: GraphBatch, layout: Layout) -> Recorded | None:
        fitting = (each for each in self.kept if each.layout is layout and each.fits(batch, forward.prepared))
        return next(fitting, None)

    def take(self, recorded: Recorded | None) -> Use | None:
        """With the lock; None where another prediction has it."""
        if recorded is None or not recorded.is_free():
            return None
        use = Use(recorded)
        recorded.user = weakref.ref(use)
        if recorded in self.kept and recorded is not self.kept[-1]:
            self.kept = [*(each for each in self.kept if each is not recorded), recorded]
        return use

    def launched(self, use: Use | None) -> Use | None:
        """None where it was not launched, for there is none or the driver refuses: it may have no memory left."""
        if use is None:
            return None
        try:
            use.recorded.recording.launch()
        except BackendError:
            self.refused, self.kept = True, []
            return None
        return use


def stream_on(device: torch.device) -> int:
    """The handle of the current one; 0 on a CPU, where kernels may be interpreted."""
    return 0 if device.type == "cpu" else driver.current_stream(driver.number_of(device))


def can_be_recorded(forward: Forward) -> bool:
    """Whether launching allocates nothing (a sweep in Triton does), on a GPU, in memory that can be spared."""
    device = forward.form.device
    if device.type != "cuda" or is_capturing(device) or forward.prepared.has_hooks():
        return False
    allocates = forward.topology is not None and forward.walk is None
    return forward.plan.elements <= MOST_ELEMENTS and not allocates
