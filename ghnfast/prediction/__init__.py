"""What is predicted of a model, from which node, in what shape, and where it is written.

The words for one table at its stages: a *slot* is a parameter that a graph predicts, with the node that it is decoded
from and its *form*, the shape and role to decode for (`slots`); a *plan* is the slots of one model, with the tensors
that they are (`plan`); a *request* is what a slot asks a decoder for, a row in the table of slots, and the *layout*
sorts these rows into *calls* of decoders and *targets* of the last step (`layout`, `ghnfast.ops.decode`); the *memory*
of a target is where its parameter lies; a *job* is all of this, ready to run (`job`). Nothing here knows a GHN:
`predictor` says what it needs of one.
"""

from .job import Job, LastStep, prepare
from .layout import DecoderKind, Layout, Memory, Request, Sizes
from .predictor import Options, Predictor, other_domain, run
from .report import Report
from .values import values_of

__all__ = [
    "DecoderKind",
    "Job",
    "LastStep",
    "Layout",
    "Memory",
    "Options",
    "Predictor",
    "Report",
    "Request",
    "Sizes",
    "other_domain",
    "prepare",
    "run",
    "values_of",
]
