"""Typical cases of a network: the images it outlines best, in the middle, and worst."""

from segmentation.common import pictures
from segmentation.data.images import load_tensor
from segmentation.model import inference


def typical_cases(rows, count=3):
    """The `count` best, median and worst rows by Dice: a list of pairs (kind, row).

    Ties go to the smaller id. Of fewer than 3 x `count` rows fewer are taken, and none twice.
    """
    ranked = sorted(rows, key=lambda row: (-row["dice"], row["id"]))
    count = max(1, min(count, len(ranked) // 3))
    last = len(ranked) - count
    chosen = {}
    for kind, start in (("best", 0), ("median", last // 2), ("worst", last)):
        for row in ranked[start : start + count]:
            chosen.setdefault(row["id"], (kind, row))
    return list(chosen.values())


def outlined(model, data, ids, batch, device, finish):
    """What to draw of some images of a datafolder.Data: (images, true masks, predicted masks).

    uint8 n x H x W x C, and twice uint8 n x H x W in {0,1}, in the order of `ids`. UserError if an
    image is not in the data or has no mask.
    """
    predicted = inference.segment(model, load_tensor(data, ids), batch, device, finish)
    return data.load_images(ids), data.load_masks(ids), predicted


def draw_cases(path, model, data, rows, batch, device, finish):
    """The picture of the typical cases among the `rows` of metrics."""
    chosen = typical_cases(rows)
    pictures.cases(
        path,
        *outlined(model, data, [row["id"] for _, row in chosen], batch, device, finish),
        [f"{kind}: {row['id']}\nDice {100 * row['dice']:.1f} %" for kind, row in chosen],
        title=data.note.strip(),
        columns=sum(kind == "best" for kind, _ in chosen),
    )
