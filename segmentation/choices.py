"""What each arm labelled first: for each arm a map of the pool and a sheet of thumbnails.

    python segmentation/choices.py --runs runs/study/seg --seed 0 --budget 20 \\
        --clusters runs/study/cluster/seed0 --data data/isic2017-48gray --out runs/study/choices

Writes to --out `map.png` (the map that cluster.py made of the pool, its points coloured by cluster,
the arm's first --budget labels marked) and `ARM.png` for each arm (those images, by cluster).
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if __name__ == "__main__":
    from segmentation.common.door import leave_at_once

    leave_at_once()  # while modules are imported

import numpy as np

from segmentation.analysis.runs import first_labels
from segmentation.common import pictures
from segmentation.common.door import run_script
from segmentation.common.lock import claim
from segmentation.common.runfiles import (
    Parser,
    UserError,
    positive,
)
from segmentation.common.schemas import read_arrays
from segmentation.data.datafolder import open_data


def parse_args():
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--runs", type=Path, required=True, help="folder of ARM/seedS folders")
    add("--arms", nargs="+", required=True, help="which, in this order")
    add("--clusters", type=Path, required=True, help="folder written by cluster.py")
    add("--data", type=Path, required=True, help="folder written by preprocess.py")
    add("--out", type=Path, required=True, help="folder to write to")
    add("--seed", type=int, default=0, help="whose runs are shown")
    add("--budget", type=positive, default=20, help="how many labels")
    add("--partial", action="store_true", help="leave out arms that have not that many labels yet")
    return parser.parse_args()


def main():
    args = parse_args()
    claim(args.out)
    data = open_data(args.data)
    clusters = read_arrays(args.clusters / "clusters.npz", "cluster", "map")
    chosen, late = {}, []
    for arm in args.arms:
        try:
            chosen[arm] = first_labels(args.runs / arm / f"seed{args.seed}", args.budget)
        except UserError as error:
            late.append(error)
    if late and not (args.partial and chosen):
        raise late[0]
    cluster = dict(zip(clusters["ids"].tolist(), clusters["cluster"].tolist(), strict=True))
    marks = {arm: np.isin(clusters["ids"], ids) for arm, ids in chosen.items()}
    title = f"The first {args.budget} labels of seed {args.seed}{data.note}"
    pictures.small_maps(args.out / "map.png", clusters["map"], clusters["cluster"], marks, title)
    for arm, ids in chosen.items():
        pictures.selection_sheet(
            args.out / f"{arm}.png",
            data.load_images(ids),
            np.array([cluster[name] for name in ids]),
            ids,
            data.note.strip(),
        )
    print(f"wrote {args.out}/map.png and {len(chosen)} sheets")


if __name__ == "__main__":
    run_script(main)
