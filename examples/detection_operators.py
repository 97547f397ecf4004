"""Two operators of torchvision in plain PyTorch, where its compiled ones do not load: beside a CPU build of torch."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import ghnfast.vision


def use_what_there_is() -> None:
    """Make torchvision's detectors use these, where they have no others."""
    if ghnfast.vision.declared is not None:
        from torchvision.ops import boxes, poolers

        boxes.nms, poolers.roi_align = nms, roi_align


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """The boxes (n, 4) that no better one overlaps by more than the threshold: their numbers, the best one first."""
    from torchvision.ops import box_iou

    order = scores.argsort(descending=True, stable=True)
    overlaps = box_iou(boxes[order], boxes[order]) > iou_threshold
    dropped = torch.zeros(len(order), dtype=torch.bool, device=boxes.device)
    for place in range(len(order)):
        if not dropped[place]:
            dropped[place + 1 :] |= overlaps[place, place + 1 :]
    return order[~dropped]


def roi_align(
    input: Tensor,
    boxes: Any,
    output_size: Any,
    spatial_scale: float = 1.0,
    sampling_ratio: int = 2,
    aligned: bool = False,
) -> Tensor:
    """Means over samples of each cell of a box.

    Args:
        input: (N, C, H, W).
        boxes: (n, 5), the number of an image and the corners in it; or a list of (n, 4), one of each image.
        output_size: a number of cells a side, or a pair of them.
        spatial_scale: pixels of `input` a unit of the boxes.
        sampling_ratio: samples a side of a cell.
        aligned: whether pixels have their centres at halves.

    Returns:
        (n, C, *output_size).
    """
    height, width = input.shape[2:]
    rows, columns = (output_size, output_size) if isinstance(output_size, int) else output_size
    given = (
        boxes
        if isinstance(boxes, Tensor)
        else torch.cat([F.pad(own, (1, 0), value=at) for at, own in enumerate(boxes)])
    )
    left, top, right, bottom = (given[:, 1:] * spatial_scale - 0.5 * aligned).unbind(1)
    least = 0.0 if aligned else 1.0
    across, down = (right - left).clamp(min=least), (bottom - top).clamp(min=least)

    def samples(start: Tensor, length: Tensor, cells: int, most: int) -> Tensor:
        """(n, cells * sampling_ratio), from -1 to 1 over the pixels' centres."""
        count = cells * sampling_ratio
        places = (torch.arange(count, device=input.device) + 0.5) / count
        return 2 * (start[:, None] + length[:, None] * places) / max(most - 1, 1) - 1

    x, y = samples(left, across, columns, width), samples(top, down, rows, height)
    grids = torch.stack(torch.broadcast_tensors(x[:, None, :], y[:, :, None]), 3).to(input.dtype)
    found = input.new_zeros(len(given), input.shape[1], rows, columns)
    for image in given[:, 0].unique().long().tolist():
        own = given[:, 0] == image
        grid = grids[own].view(1, -1, columns * sampling_ratio, 2)
        values = F.grid_sample(input[image : image + 1], grid, padding_mode="border", align_corners=True)
        values = F.avg_pool2d(values, sampling_ratio)[0]
        found[own] = values.view(len(values), -1, rows, columns).transpose(0, 1)
    return found
