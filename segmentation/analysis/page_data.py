"""The report on the data folder: images, sizes, groups, and what became of each file."""

from collections import Counter

import numpy as np

from segmentation.analysis.page import folded, missing, paragraph, rest_of, table
from segmentation.analysis.page_words import count_of
from segmentation.data.splitting import originals

LISTED = 200  # rows of a list of files that are shown
USED = ("image", "mask")  # outcomes in files.csv of files that went into the arrays
GROUPS = 12  # most groups that are listed


def data_overview(run):
    """How many images there are, of what kind, and which files were left out."""
    if run.manifest is None:
        return missing("The data folder is not there, so its images cannot be described or shown.")
    rows, splits = run.manifest["rows"], run.splits or {}
    first = originals(rows)
    masked = {row["id"] for row in rows if row.get("mask") is not None}
    facts = [["images", len(rows)], ["with a mask", len(masked)]]
    for name, key in (("pool", "pool"), ("test", "test"), ("left out of both", "dropped")):
        ids = splits.get(key, [])
        without = len(set(ids) - masked)
        if ids or key != "dropped":
            facts.append(
                [name, f"{len(ids)}" + (f" ({without} without a mask)" if without else "")]
            )
    height, width = run.manifest["size"]
    kind = "grayscale" if run.manifest["channels"] == 1 else "colour"
    facts.append(["size here", f"{width} × {height} pixels, {kind}"])
    facts += original_sizes(first)
    if len(first) < len(rows):
        facts.append(["near copies, made on purpose", len(rows) - len(first)])
    identical = run.manifest.get("duplicates") or []
    facts.append(["identical images", alike_text(identical)])
    if "copies" in run.manifest:
        facts.append(["copies, cut or in other colours", alike_text(run.manifest["copies"])])
    for key, name in (
        ("duplicates_with_different_masks", "identical images with different masks"),
        ("masks_without_image", "masks without an image"),
    ):
        if run.manifest.get(key):
            facts.append([name, len(run.manifest[key])])
    if splits.get("rule"):
        facts.append(["split", splits["rule"]])
    parts = [table(None, facts, f"The data folder {run.data_folder}")]
    return [*parts, group_table(rows, splits), file_list(run.files)]


def original_sizes(rows):
    """The range of the sizes of the original files."""
    sizes = Counter(tuple(row["original_size"]) for row in rows if row.get("original_size"))
    if not sizes:
        return []
    (height, width), most = sizes.most_common(1)[0]
    words = f"{width} × {height} pixels"
    if len(sizes) > 1:
        small, large = min(sizes, key=np.prod), max(sizes, key=np.prod)
        words = (
            f"{small[1]} × {small[0]} to {large[1]} × {large[0]} pixels, {len(sizes)} sizes, "
            f"most often {words} ({count_of(most, 'image')})"
        )
    return [["size of the files", words]]


def alike_text(groups):
    """`none`, or how many groups of images are of one photograph, and the first of them."""
    if not groups:
        return "none"
    listed = "; ".join(" = ".join(group) for group in groups[:3])
    more = f"; {len(groups) - 3} more" if len(groups) > 3 else ""
    return f"{count_of(len(groups), 'group')} of {sum(map(len, groups))}: {listed}{more}"


def group_table(rows, splits):
    """Images by the group that the manifest gives them; nothing where it gives none."""
    group = {row["id"]: row["group"] for row in rows if row.get("group") not in (None, "")}
    if not group:
        return None
    total = Counter(group.values())
    if len(total) > GROUPS:
        most, count = total.most_common(1)[0]
        return paragraph(
            f"The {len(group)} images with a group belong to {len(total)} groups; "
            f"the largest, {most}, has {count_of(count, 'image')}."
        )
    split = {
        key: Counter(group.get(name) for name in splits.get(key, [])) for key in ("pool", "test")
    }
    lines = [
        [name, n, split["pool"][name], split["test"][name]] for name, n in sorted(total.items())
    ]
    return table(["group", "images", "pool", "test"], lines, "Images by group")


def file_list(files):
    """What became of each input file, if files.csv says so: counts, and what is not used and why.

    Columns are file, outcome, id and a reason (notes).
    """
    if not files:
        return None
    outcomes = Counter(row.get("outcome", "") for row in files)
    lines = [[name, n] for name, n in outcomes.most_common()]
    parts = [table(["outcome", "files"], lines, "What became of the files that were found")]
    unused = [row for row in files if row.get("outcome") not in USED]
    if unused:
        parts += file_table(unused, f"Files that are not used ({len(unused)})")
    noted = [row for row in files if row not in unused and reason(row)]
    if noted:
        title = f"Files that are used, with a note ({len(noted)})"
        parts.append(folded(title, *file_table(noted, title)))
    return parts


def reason(row):
    """Why a file was left out, or what else there is to know."""
    return row.get("notes") or ""


def file_table(rows, caption):
    """File, outcome and reason of rows of files.csv."""
    lines = [[row.get("file", ""), row.get("outcome", ""), reason(row)] for row in rows]
    listed = table(["file", "outcome", "reason"], lines[:LISTED], caption, texts=3)
    return [listed, rest_of(lines, LISTED)]
