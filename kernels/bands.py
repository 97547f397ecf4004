"""What a node of a sweep receives, and from whom, and what else is known of it ahead."""

from __future__ import annotations

import triton
import triton.language as tl

from .streams import load_vector


@triton.jit
def weights_of_messages(closeness, cutoff, HEADS: tl.constexpr):
    """(senders, HEADS): 1 at distance 1 for the edges' MLP, and 1 / distance for that of virtual edges."""
    distance = (cutoff + 1 - closeness).to(tl.float32)
    head = tl.arange(0, HEADS)[None, :]
    weight = tl.where((head == 0) & (closeness != cutoff)[:, None], 0.0, 1.0 / distance[:, None])
    return tl.where((closeness > 0)[:, None], weight, 0.0)


@triton.jit
def load_closeness(closeness, start, senders, SENDERS: tl.constexpr):
    sender = start + tl.arange(0, SENDERS)
    return tl.load(closeness + sender, mask=sender < senders, other=0).to(tl.int32)


@triton.jit
def load_band(band_starts, band_offsets, closeness, row, SENDERS: tl.constexpr):
    """The first sender of a node, where its closeness lies, how many senders there are, the closeness of the first."""
    first, band = tl.load(band_starts + row).to(tl.int64), tl.load(band_offsets + row)
    senders = tl.load(band_offsets + row + 1) - band
    return first, band, senders, load_closeness(closeness + band, 0, senders, SENDERS)


@triton.jit
def load_known(before, products, node, hid, HID: tl.constexpr):
    """A node's state, and the hidden half of its reset, update and new gates."""
    place = products + node * 3 * hid
    reset, update = load_vector(place, hid, HID), load_vector(place + hid, hid, HID)
    return load_vector(before + node * hid, hid, HID), reset, update, load_vector(place + 2 * hid, hid, HID)
