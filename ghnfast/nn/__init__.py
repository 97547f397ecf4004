"""The Graph HyperNetwork and its parts."""

from .ghn import GHN

__all__ = ["GHN"]
