"""Small members of the families of networks that people use, as a data set for training and evaluating GHNs."""

from .dataset import HELD_OUT, TRAINED, Families, FamilyNet

__all__ = ["HELD_OUT", "TRAINED", "Families", "FamilyNet"]
