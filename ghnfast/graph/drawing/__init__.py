"""Drawings of architecture graphs: `ArchGraph.to_svg`.

Networks are long and thin: hundreds of levels of one or two nodes, with skip connections beside them. So every level is
a row, nodes stand below their predecessors, and an edge that would run through other nodes goes around them in a lane
to the right of its rows, one lane for all such edges of a node. Names of parameters stand to the left. Blocks that
repeat are drawn once, in a frame that says how often.
"""

from .document import to_svg

__all__ = ["to_svg"]
