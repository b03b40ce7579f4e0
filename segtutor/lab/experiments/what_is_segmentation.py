"""Chapter 00: how many objects' boxes can be read off a perfect semantic mask."""

import torch

from segtutor.lab.harness import experiment

SIZE, RADIUS = 96, 8
CROWDS = (2, 5, 10, 20)


def _disc_boxes(count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Mask of ``count`` discs of one class, and their boxes (count, 4) as top, left, bottom, right, ends excluded."""
    centres = torch.randint(RADIUS, SIZE - RADIUS, (count, 2), generator=generator)
    axis = torch.arange(SIZE)
    offset = axis.view(1, -1, 1) - centres[:, 0].view(-1, 1, 1), axis.view(1, 1, -1) - centres[:, 1].view(-1, 1, 1)
    mask = (offset[0] ** 2 + offset[1] ** 2 <= RADIUS**2).any(dim=0)
    return mask, torch.cat([centres - RADIUS, centres + RADIUS + 1], dim=1)


def _region_boxes(mask: torch.Tensor) -> torch.Tensor:
    """The box of every connected region of the mask, (N, 4)."""
    from scipy import ndimage

    labelled, _ = ndimage.label(mask.numpy())
    found = ndimage.find_objects(labelled)
    return torch.tensor([[rows.start, columns.start, rows.stop, columns.stop] for rows, columns in found])


def _recall(found: torch.Tensor, true: torch.Tensor) -> float:
    """Share of the true boxes that a found box overlaps with IoU above one half."""
    top_left = torch.maximum(found[:, None, :2], true[None, :, :2])
    bottom_right = torch.minimum(found[:, None, 2:], true[None, :, 2:])
    shared = (bottom_right - top_left).clamp(min=0).prod(dim=-1)
    area_found, area_true = ((b[:, 2:] - b[:, :2]).prod(dim=-1) for b in (found, true))
    iou = shared / (area_found[:, None] + area_true[None] - shared)
    return (iou.max(dim=0).values > 0.5).float().mean().item()


@experiment(
    "INTRO-1",
    claim="INTRO-1",
    unit="share of boxes found",
    conditions="perfect masks of 2 to 20 discs of radius 8 at random places in 96x96 pixels, boxes of the connected "
    "regions, a box counts as found at IoU above 0.5, 300 masks for each number of discs",
)
def boxes_from_perfect_masks(seed, quick, log):
    """Share of the objects whose box is that of a connected region of a perfect semantic mask."""
    generator = torch.Generator().manual_seed(seed)
    images = 20 if quick else 300
    recall = {}
    for count in CROWDS:
        total = 0.0
        for _ in range(images):
            mask, true = _disc_boxes(count, generator)
            total += _recall(_region_boxes(mask), true)
        recall[f"recall_{count}"] = total / images
    return recall
