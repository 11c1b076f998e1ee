"""Read what cluster.py wrote: arrays with a row for each image of a pool, in its order."""

from segmentation.common.runfiles import UserError, sha256_file
from segmentation.common.schemas import read_arrays

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


def places_of(ids, arrays, path, fix=f"{FIX} on this data"):
    """Where the rows of `ids` are in the arrays of `path`: a list. UserError if one is missing."""
    row = {name: place for place, name in enumerate(arrays["ids"].tolist())}
    missing = [name for name in ids if name not in row]
    if missing:
        raise UserError(f"{path}: has no image {missing[0]}; {fix}")
    return [row[name] for name in ids]


def open_clusters(folder, pool, encoder=None, weights=None):
    """Arrays by name: features, cluster, distance and, if there are some, pretext_loss, patterns.

    `pool` is a list of ids; the rows are put in its order. `encoder` is the hash of the encoder in
    the file `weights`. UserError if the features were made with another encoder (features made
    without an encoder are accepted), if the two files come from different calls of cluster.py, or
    if an image is missing.
    """
    path = folder / "features.npz"
    features = read_arrays(path, "features", "encoder_sha256")
    clusters = read_arrays(folder / "clusters.npz", "cluster", "distance", "features_sha256")
    if str(clusters["features_sha256"]) != sha256_file(path):
        raise UserError(
            f"{folder}/clusters.npz: made from other features than features.npz; "
            f"delete it, then {FIX}"
        )
    made_with = str(features["encoder_sha256"])
    if encoder is not None and made_with not in ("", encoder):
        raise UserError(f"{path}: made with other weights than {weights}; {FIX} with these weights")
    of_features, of_clusters = (places_of(pool, arrays, path) for arrays in (features, clusters))
    own = {name: clusters[name][of_clusters] for name in ("cluster", "distance")}
    names = [name for name in ("features", *MADE_WITH) if name in features]
    return own | {name: features[name][of_features] for name in names}


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
