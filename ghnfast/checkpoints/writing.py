"""Writing checkpoints of both formats."""

from __future__ import annotations

import json
import os
from pathlib import Path

import safetensors
import torch

from ..errors import CheckpointError
from ..files import compact_copies, in_words, replacing
from .contents import FORMAT, SAFETENSORS_SUFFIX, Checkpoint, checkpoint_of, plain_images, suffix_of
from .safetensors_files import write_safetensors


def write(path: str | os.PathLike[str], checkpoint: Checkpoint) -> None:
    """Write a checkpoint to .safetensors, or to .pt or .pth in the published layout, by the path's suffix.

    The file appears whole or not at all: a file that was there stays as it is until the new one is on the disk.

    Raises:
        CheckpointError: another suffix, a configuration or tensors that could not be read back, or the file could not
            be written.
    """
    path = Path(path)
    suffix = suffix_of(path, "write")
    images = plain_images(checkpoint.trained_on)
    checked = checkpoint_of(checkpoint.config, checkpoint.state_dict, f"for {path}", checkpoint.epoch, images)
    tensors = compact_copies(checked.state_dict)
    try:
        with replacing(path) as file:
            if suffix == SAFETENSORS_SUFFIX:
                metadata = {"ghnfast_format": FORMAT, "ghnfast_config": json.dumps(checked.config)}
                if checked.epoch is not None:
                    metadata["ghnfast_epoch"] = str(checked.epoch)
                if images is not None:
                    metadata["ghnfast_trained_on"] = json.dumps(images)
                write_safetensors(file, tensors, metadata)
            else:
                content = {"state_dict": tensors, "config": checked.config, "epoch": checked.epoch}
                torch.save(content if images is None else {**content, "trained_on": images}, file)
    # KeyError: how safetensors says that it has no such type of numbers.
    except (OSError, ValueError, KeyError, RuntimeError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"the checkpoint {path} could not be written: {in_words(error)}") from error
