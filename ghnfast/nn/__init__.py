"""The Graph HyperNetwork, its parts, and the registries of what it can be made of."""

from .config import GHNConfig
from .ghn import GHN, from_checkpoint
from .graphormer import Graphormer
from .registry import DECODERS, HYPERNETS, Decoder, Hypernet

__all__ = ["DECODERS", "GHN", "HYPERNETS", "Decoder", "GHNConfig", "Graphormer", "Hypernet", "from_checkpoint"]
