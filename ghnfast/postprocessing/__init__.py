"""What makes predicted parameters better to start training from: a little noise, and orthogonal weights.

Source: Pretraining a Neural Network before Knowing Its Architecture (Knyazev, 2022).
"""

from .process import postprocess

__all__ = ["postprocess"]
