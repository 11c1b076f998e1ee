"""The report on which images were chosen: map of the pool, sheets of images."""

import re

from segmentation.analysis import charts
from segmentation.analysis.page import (
    element,
    figure,
    missing,
    paragraph,
    rest_of,
)
from segmentation.analysis.page_words import (
    count_of,
    score_text,
)
from segmentation.analysis.runfolder import clustering_of, optional, read_map
from segmentation.common.runfiles import read_json

SHEET = 60  # images of a round that are shown
SCORES = (
    "Below each image: its name, why it was chosen, and its score among the images without a label "
    "(an uncertainty, or minus the distance to the centre of its cluster)."
)


def sheets(run, closer):
    """The images chosen in each round: number of the round -> list of dicts.

    They have the keys id, reason and score, perhaps cluster. Without a training these are the cold
    start of cluster.py.
    """
    known = {row.get("id"): row for rows in run.waiting.values() for row in rows}
    found = {}
    if closer:
        for entry in closer.rounds:
            found[str(entry.number)] = [
                {**one, "reason": known.get(one["id"], {}).get("reason") or one["reason"]}
                for one in entry.chosen
            ]
    elif run.clusterings:
        found["0"] = cold_start(run, run.clusterings[0])
    return {number: chosen for number, chosen in found.items() if chosen}


def cold_start(run, stage):
    """What cluster.py chose."""
    content = optional(run, read_json, stage.folder / "selection.json") or {}
    return [
        {
            "id": one["id"],
            "reason": f"{content.get('rule', '')}, cluster {one['cluster']}",
            "score": -one["distance"],
        }
        for one in content.get("selection", [])
    ]


def waiting(run, closer):
    """The images that wait for a person: name of the round -> rows; outlined ones are left out."""
    done = {one["id"] for entry in closer.rounds for one in entry.chosen} if closer else set()
    done |= (
        {name for name, has_mask in run.data.has_mask.items() if has_mask} if run.data else set()
    )
    left = {
        name: [row for row in rows if row.get("id") and row["id"] not in done]
        for name, rows in run.waiting.items()
    }
    return {name: rows for name, rows in left.items() if rows}


def pool_map(run, closer):
    """The map of the pool with the chosen images of each round."""
    stage = clustering_of(run, closer)
    found = read_map(run, stage) if stage else None
    if stage is None or found is None:
        return missing(
            "There is no map: cluster.py has not been run for this folder, "
            "or its clusters.npz is missing."
        )
    ids, points = found
    place = {name: row for row, name in enumerate(ids)}
    left = waiting(run, closer)
    chosen = sheets(run, closer)
    chosen |= {re.sub(r"^round_0*(?=\d)", "", name): rows for name, rows in left.items()}
    marks = {
        number: [(place[one["id"]], one["id"]) for one in rows if one["id"] in place]
        for number, rows in chosen.items()
    }
    lost = sum(one["id"] not in place for rows in chosen.values() for one in rows)
    who = f"by {closer.arm}, seed {closer.seed}" if closer else "by the cold start"
    alt = f"Map of {len(ids)} pool images; marked are those chosen {who}"
    alt += ", and those that wait for outlines" if left else ""
    names = [f"round {number}: {count_of(len(m), 'image')}" for number, m in marks.items()]
    return [
        figure(
            charts.pool_map(points, marks, alt),
            f"{alt}. Near points are images with similar features ({stage.name}: t-SNE for 10 to "
            "5000 images, otherwise PCA). Axes have no unit.",
        ),
        charts.round_legend(names) if names else None,
        missing(f"Chosen images that are not on this map: {lost}.") if lost else None,
    ]


def chosen_images(run, closer):
    """A sheet of images per round."""
    found, left = sheets(run, closer), waiting(run, closer)
    if not found and not left:
        return missing("No image has been chosen yet.")
    parts = []
    if closer:
        parts.append(paragraph(f"Chosen by {closer.arm}, seed {closer.seed}. ", SCORES))
    entries = {str(entry.number): entry for entry in closer.rounds} if closer else {}
    for number, rows in found.items():
        parts.append(element("h3", f"Round {number}: {count_of(len(rows), 'image')}"))
        entry, more = entries.get(number), []
        if entry:
            more.append(f"{count_of(entry.labels, 'label')} from this round on")
            if entry.pseudo:
                more.append(f"{count_of(entry.pseudo, 'image')} with the model's own masks")
            if entry.note:
                more.append(entry.note)
        if more:
            parts.append(paragraph("; ".join(more) + ".", class_="note"))
        parts.append(sheet(run, rows))
    for name, rows in left.items():
        parts.append(element("h3", f"Waiting for outlines, {name}: {count_of(len(rows), 'image')}"))
        parts.append(sheet(run, rows))
    return parts


def sheet(run, rows):
    """Small pictures of images with their captions."""
    return [
        element("div", [one_image(run, row) for row in rows[:SHEET]], class_="sheet"),
        rest_of(rows, SHEET),
    ]


def one_image(run, row):
    """A small picture with its id, reason and score."""
    name = row["id"]
    content = element("div", "no picture", class_="no-picture")
    if run.data is not None and name in run.data.has_mask:
        image = run.data.load_images([name])[0]
        content = charts.thumbnail(image, f"image {name}")
    words = [row.get("reason") or ""]
    if score := score_text(row.get("score")):
        words.append(f"score {score}")
    if row.get("cluster") not in (None, ""):
        words.append(f"one of {row['cluster_size']} in cluster {row['cluster']}")
    return figure(content, element("b", name), ", ".join(filter(None, words)))
