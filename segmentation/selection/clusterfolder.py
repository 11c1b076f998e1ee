"""Read what cluster.py wrote: arrays with a row for each image of a pool, in its order."""

import numpy as np

from segmentation.common.runfiles import UserError, read_npz, sha256_file

FIX = "run cluster.py"
MADE_WITH = {  # arrays that not all folders have -> the options that give them
    "pretext_loss": "--features genesis and --weights best.pt",
    "patterns": "--features genesis, not the released ones, or --features timm",
}


def clusters_sha256(folder):
    """Hash that identifies the clustering in `folder`. UserError if there is none."""
    path = folder / "clusters.npz"
    if not path.is_file():
        raise UserError(f"{path}: not found; {FIX}")
    return sha256_file(path)


def open_clusters(folder, pool, encoder=None, weights=None):
    """Arrays by name: features, cluster, distance and, if there are some, pretext_loss, patterns.

    `pool` is a list of ids; the rows are put in its order. `encoder` is the hash of the encoder in
    the file `weights`. UserError if the features were made with another encoder (features made
    without an encoder are accepted), if the two files come from different calls of cluster.py, or
    if an image is missing.
    """
    features = read_npz(folder / "features.npz", FIX)
    clusters = read_npz(folder / "clusters.npz", FIX)
    if str(clusters["features_sha256"]) != sha256_file(folder / "features.npz"):
        raise UserError(
            f"{folder}/clusters.npz: made from other features than features.npz; {FIX} again"
        )
    for name in ("ids", "features", "encoder_sha256"):
        if name not in features:
            raise UserError(f"{folder}/features.npz: has no {name}; {FIX} again")
    made_with = str(features["encoder_sha256"])
    if encoder is not None and made_with not in ("", encoder):
        raise UserError(
            f"{folder}/features.npz: made with other weights than {weights}; "
            f"{FIX} with these weights"
        )
    row = {name: place for place, name in enumerate(features["ids"].tolist())}
    missing = [name for name in pool if name not in row]
    if missing:
        raise UserError(f"{folder}/features.npz: has no image {missing[0]}; {FIX} on this data")
    rows = np.array([row[name] for name in pool])
    arrays = {**clusters, **features}
    names = ("features", "cluster", "distance", *MADE_WITH)
    return {name: arrays[name][rows] for name in names if name in arrays}


def reader(folder, arrays):
    """A function that returns one of `arrays` by name; it raises UserError if there is none."""

    def read(name):
        if name in arrays:
            return arrays[name]
        options = f"with {MADE_WITH[name]}" if name in MADE_WITH else "again"
        raise UserError(
            f"{folder}/features.npz: has no {name}; delete {folder}, then {FIX} {options}"
        )

    return read
