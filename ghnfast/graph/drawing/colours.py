"""The colours of primitives, and which text and lines can be seen on what."""

from __future__ import annotations

# Paul Tol's "muted" scheme, which stays distinguishable with every kind of colour vision, and five more. Fifteen
# colours are too many to tell all pairs apart, so colour is never the only sign: every node names its primitive.
COLOURS = {
    "max_pool": "#117733",
    "avg_pool": "#44aa99",
    "sep_conv": "#88ccee",
    "dil_conv": "#332288",
    "conv": "#4477aa",
    "msa": "#ee7733",
    "cse": "#ffaabb",
    "sum": "#cc6677",
    "concat": "#882255",
    "input": "#222222",
    "bias": "#dddddd",
    "bn": "#ddcc77",
    "ln": "#999933",
    "pos_enc": "#aa4499",
    "glob_avg": "#b5e3b5",
}


def channels(colour: str) -> list[int]:
    return [int(colour[index : index + 2], 16) for index in (1, 3, 5)]


def luminance(colour: str) -> float:
    """Relative luminance, 0 to 1 (WCAG 2.1)."""
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in channels(colour))]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def text_colour(background: str) -> str:
    """White or nearly black, whichever has more contrast."""
    light, dark = (luminance(colour) for colour in ("#ffffff", "#111111"))
    own = luminance(background)
    return "#ffffff" if (light + 0.05) / (own + 0.05) >= (own + 0.05) / (dark + 0.05) else "#111111"


def edge_colour(op: str) -> str:
    """The colour of a primitive, darkened where a thin line of it would be too pale on white."""
    colour = channels(COLOURS[op])
    while luminance("#{:02x}{:02x}{:02x}".format(*colour)) > 0.3:
        colour = [value * 9 // 10 for value in colour]
    return "#{:02x}{:02x}{:02x}".format(*colour)


LEAST_LUMINANCE = 0.18  # of a thin line on a dark ground


def edge_colour_on_dark(op: str) -> str:
    """The colour of a primitive, lightened where a thin line of it would be too dark on nearly black."""
    colour = channels(COLOURS[op])
    while luminance("#{:02x}{:02x}{:02x}".format(*colour)) < LEAST_LUMINANCE:
        colour = [value + (255 - value) // 10 + 1 for value in colour]
    return "#{:02x}{:02x}{:02x}".format(*colour)
