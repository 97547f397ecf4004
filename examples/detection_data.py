"""Images with boxes: pedestrians of Penn-Fudan, and drawn shapes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

SHAPES, SHAPE_SIZE = 170, 256
Image = tuple[Tensor, Tensor]  # (3, height, width) from 0 to 1, and boxes (n, 4)


class PennFudan(Dataset[Image]):
    """Pedestrians, from the folder of https://www.cis.upenn.edu/~jshi/ped_html/: PNGImages and PedMasks."""

    def __init__(self, folder: Path) -> None:
        self.images = sorted((folder / "PNGImages").glob("*.png"))
        self.masks = [folder / "PedMasks" / f"{path.stem}_mask.png" for path in self.images]
        missing = next((str(path) for path in self.masks if not path.is_file()), None)
        if not self.images or missing:
            raise SystemExit(f"{folder} has no {missing or 'PNGImages'}; the unpacked PennFudanPed.zip is accepted")

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Image:
        from PIL import Image as Picture

        pixels = np.array(Picture.open(self.images[index]).convert("RGB"))
        mask = torch.from_numpy(np.array(Picture.open(self.masks[index])))
        boxes = [box_of(mask == number) for number in mask.unique().tolist() if number]
        return torch.from_numpy(pixels).permute(2, 0, 1) / 255, torch.tensor(boxes).view(-1, 4)


def box_of(mask: Tensor) -> list[float]:
    """The corners of what is not zero, as the published code has them, and never without an area."""
    rows, columns = mask.nonzero().T
    left, top = float(columns.min()), float(rows.min())
    return [left, top, max(float(columns.max()), left + 1), max(float(rows.max()), top + 1)]


class Shapes(Dataset[Image]):
    """Ellipses and rectangles of random colours on noise: one to three, which may overlap."""

    def __init__(self, count: int = SHAPES, size: int = SHAPE_SIZE) -> None:
        self.count, self.size = count, size

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Image:
        random = torch.Generator().manual_seed(index)
        image = 0.5 * torch.rand(3, self.size, self.size, generator=random)
        rows, columns = torch.meshgrid(*(torch.arange(self.size),) * 2, indexing="ij")
        boxes = []
        for _ in range(int(torch.randint(1, 4, (), generator=random))):
            width, height = (self.size * (0.15 + 0.35 * torch.rand(2, generator=random))).tolist()
            x, y = (torch.rand(2, generator=random) * (self.size - max(width, height))).tolist()
            across, down = (2 * (columns - x) / width - 1).abs(), (2 * (rows - y) / height - 1).abs()
            inside = (
                across**2 + down**2 <= 1 if torch.rand((), generator=random) < 0.5 else torch.maximum(across, down) <= 1
            )
            image = torch.where(inside, 0.3 + 0.7 * torch.rand(3, 1, 1, generator=random), image)
            boxes.append(box_of(inside))
        return image, torch.tensor(boxes)


def mirrored(image: Tensor, boxes: Tensor) -> Image:
    left, top, right, bottom = boxes.unbind(1)
    width = image.shape[2]
    return image.flip(2), torch.stack([width - right, top, width - left, bottom], 1)
