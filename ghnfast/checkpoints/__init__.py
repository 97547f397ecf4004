"""GHN checkpoints: names to files, files to tensors and back, every one read safely.

Two formats that are written hold the same thing, the constructor arguments of a GHN and its weights:

- the published layout, `.pt` or `.pth`: `torch.save({"state_dict": ..., "config": ..., "epoch": ...})`, read with
  `weights_only=True`, so that nothing in the file is ever run;
- `.safetensors`: the configuration as JSON in the metadata key `ghnfast_config`, beside `ghnfast_format` (the
  version of this layout, "1") and, where they are known, `ghnfast_epoch` and `ghnfast_trained_on` (JSON: the name
  of the images and the shape of one; `trained_on` in the other format).

Three more are read: the published GHN-3s are dumps of joblib, weights alone, and their training's checkpoints have an
optimizer and an `argparse.Namespace`, too; those of a run of training here have the weights of a GHN as `ghn`, and its
constructor arguments as `ghn_config`.

This package knows files and names; it does not know the GHN class, which imports it.
"""

from .contents import Checkpoint, TrainedOn, as_type, images_in_words
from .download import cache_folder
from .fitting import fitted_weights
from .hub import hub_file, upload_folder
from .networks import network_weights
from .published import DEFAULT, INCLUDED, PUBLISHED, Check, Published, included_folder
from .reading import check_regular, read
from .sources import available, is_included, load, local_file, resolve
from .writing import write

__all__ = [
    "DEFAULT",
    "INCLUDED",
    "PUBLISHED",
    "Check",
    "Checkpoint",
    "Published",
    "TrainedOn",
    "as_type",
    "available",
    "cache_folder",
    "check_regular",
    "fitted_weights",
    "hub_file",
    "images_in_words",
    "included_folder",
    "is_included",
    "load",
    "local_file",
    "network_weights",
    "read",
    "resolve",
    "upload_folder",
    "write",
]
