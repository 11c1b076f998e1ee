"""Cold start: images of the pool -> features -> k-means -> which images to label first.

    python cluster.py --data data/isic2017 --weights runs/paper/pretrain/encoder.pt \\
        --out runs/paper/cluster --k 10 --budget 300
    python cluster.py --data data/isic2017 --features timm --backbone tf_efficientnet_lite0 \\
        --weights package --out runs/paper/cluster-imagenet
    python cluster.py --data data/isic2017 --features thumbnail --out runs/paper/cluster-thumbnail

Each pool image, uncorrupted and in id order, goes once through the pretrained encoder in evaluation
mode. The bottleneck is average-pooled (--pooling 1: 512 values at width 64; 2: 2048). k-means
divides the pool into clusters, with --pca D by the features reduced to D dimensions. Each cluster
gets a share of the budget in proportion to its size, and its images nearest to the centroid are
chosen, unless --rule names another cold start; those that read features read them before --pca.

Instead of the encoder, --features can take a backbone of timm trained on ImageNet (--weights: a
file, `imagenet` to download timm's own, or `package`, EfficientNet-Lite0 as installed by pip), or
thumbnails of 16 x 16 pixels. No masks are needed, except for --features mask, thumbnails of the
true masks: a control that uses what is not known before labelling.

Writes to --out: `features.npz` (features after --scale and before --pca), `clusters.npz`,
`selection.json` (the chosen images, in the order to label them), `latent.png` (a map of the pool)
and `selection.png` (the chosen images). Of a network, features.npz also has `patterns`, what up to
five kinds of place in each image look like; if --weights is best.pt, the whole pretrained model,
`pretext_loss`, the error with which that model restores each image. Some rules need them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

if __name__ == "__main__":
    from segmentation.common.door import leave_at_once

    leave_at_once()  # while modules are imported

import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.metrics import silhouette_score

from segmentation.common import pictures
from segmentation.common.door import run_script
from segmentation.common.lock import claim
from segmentation.common.precision import add_pool_option
from segmentation.common.runfiles import (
    Parser,
    UserError,
    derived_seed,
    numpy_rng,
    positive,
    sha256_file,
    write_json,
    write_npz,
)
from segmentation.common.schemas import read_arrays
from segmentation.common.stages import begin_stage, pick_device, read_torch, sha256_tensors
from segmentation.data.datafolder import Data, open_data
from segmentation.data.images import Images
from segmentation.model.unet import encoder_sha256, load_encoder, load_model
from segmentation.selection import geometry
from segmentation.selection.clusterfolder import MADE_WITH, reader
from segmentation.selection.strategies import COLD_STARTS, View, ask
from self_supervised.features import (
    SCALES,
    backbone_features,
    genesis,
    load_backbone,
    masks,
    released,
    restoration_loss,
    scaled,
    thumbnails,
    with_patterns,
)

WEIGHTS = {  # --features -> the --weights it takes
    "genesis": "encoder.pt or best.pt of the pretraining",
    "timm": "a file of timm or torchvision, imagenet or package",
    "thumbnail": "none",
    "mask": "none",
}
THUMBNAIL = 16  # pixels per side
MAP_LIMIT = 5000  # up to this many images the map is made by t-SNE, for more by PCA
SILHOUETTE_SAMPLE = 5000  # images; the cost of a silhouette is quadratic


def parse_args():
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--data", type=Path, required=True, help="folder written by preprocess.py")
    add("--features", choices=WEIGHTS, default="genesis", help="features to compare images by")
    takes = "; ".join(f"{name}: {file}" for name, file in WEIGHTS.items())
    add("--weights", type=Path, help=f"weights for --features ({takes})")
    add("--backbone", default="resnet50", help="backbone of timm for --features timm")
    add("--out", type=Path, required=True, help="folder to write to")
    add("--pooling", type=int, choices=(1, 2), default=2, help="side of the pooled bottleneck")
    add(
        "--released-features",
        action="store_true",
        help="control: repeat defects of the paper's released code on purpose: Genesis features "
        "of corrupted images, in shuffled order (an image gets the features of another one), "
        "with batch normalisation in training mode",
    )
    add(
        "--scale",
        choices=SCALES,
        default="none",
        help="scaling before PCA and k-means: l2, each image's features to length 1; instance, "
        "each image's features to mean 0 and standard deviation 1 (a thumbnail loses its "
        "brightness and contrast); standard, each feature to mean 0 and standard deviation 1 "
        "over the pool",
    )
    help = "dimensions after PCA, for k-means and the map; 0: no PCA"
    add("--pca", type=int, default=0, help=help)
    add("--k", type=positive, default=10, help="number of clusters")
    add("--n-init", type=positive, default=10, help="random starts of k-means; the best is kept")
    add(
        "--rule",
        choices=COLD_STARTS,
        default="saal",
        help="how to choose images: see segmentation/selection/strategies.py",
    )
    add("--budget", type=positive, default=300, help="images to choose")
    add("--batch", type=positive, default=32, help="images per step")
    add("--seed", type=int, default=0, help="seed of k-means, rule, map and corruptions")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    add_pool_option(parser)
    args = parser.parse_args()
    if (args.weights is None) != (WEIGHTS[args.features] == "none"):
        verb = "needs" if args.weights is None else "takes no"
        raise UserError(f"--features {args.features} {verb} --weights ({takes})")
    if args.released_features and args.features != "genesis":
        raise UserError(
            f"--released-features is for --features genesis, not {args.features}; leave it out"
        )
    return args


# Features ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """Where features come from, and how to compute them."""

    kind: str  # "genesis", "genesis released", "timm NAME", "thumbnail 16", "mask 16"
    dimensions: int  # numbers per image
    scale: str  # one of SCALES
    extract: Callable  # images.Images -> arrays by name, a row per image; `features` unscaled
    arrays: frozenset = frozenset({"features"})  # their names
    weights_sha256: str = ""  # of the encoder, or of the backbone
    encoder_sha256: str = ""  # of the encoder, for Genesis features only
    pretext_sha256: str = ""  # of the whole model that `pretext_loss` is of, where there is one

    @property
    def origin(self):
        """What the output files record about it."""
        names = ("kind", "scale", "weights_sha256", "encoder_sha256", "pretext_sha256")
        return {name: getattr(self, name) for name in names}


def open_source(args, data):
    """The source that the options ask for. UserError if the weights do not fit."""
    if args.features == "genesis":
        return open_genesis(args, data)
    if args.features == "timm":
        model, origin = load_backbone(args.backbone, str(args.weights))
        print(f"features of {args.backbone}, weights from {origin}")

        def extract(images):
            how = partial(backbone_features, model, images, args.pooling, args.batch)
            return with_patterns(how, args.seed)

        return Source(
            f"timm {args.backbone}",
            model.num_features * args.pooling**2,
            args.scale,
            extract,
            frozenset({"features", "patterns"}),
            weights_sha256=sha256_tensors(model.state_dict()),
        )
    if args.features == "mask":
        data.need_masks(data.pool)  # before anything is written
    channels, shrink = (data.channels, thumbnails) if args.features == "thumbnail" else (1, masks)
    return Source(
        f"{args.features} {THUMBNAIL}",
        channels * THUMBNAIL**2,
        args.scale,
        lambda images: {"features": shrink(images, THUMBNAIL, args.batch)},
    )


def open_genesis(args, data):
    """The pretrained encoder as a source; from best.pt also the pretext loss of each image."""
    content = read_torch(args.weights, fix="run self_supervised/pretrain.py")
    restores = "epoch" in content  # only in best.pt; a segmentation model cannot restore
    model = (load_model if restores else load_encoder)(args.weights)
    if model.in_channels != data.channels:
        raise UserError(
            f"{args.weights}: weights for {model.in_channels} channel(s), but {args.data} has "
            f"{data.channels}; pretrain on this data"
        )

    def extract(images):
        if args.released_features:
            made = {"features": released(model, images, args.pooling, args.seed)}
        else:
            how = partial(genesis, model, images, args.pooling, args.batch)
            made = with_patterns(how, args.seed)
        if restores:
            made["pretext_loss"] = restoration_loss(model, images, args.seed, args.batch)
        return made

    arrays = {"features"} if args.released_features else {"features", "patterns"}
    arrays |= {"pretext_loss"} if restores else set()
    encoder = encoder_sha256(model)
    return Source(
        "genesis released" if args.released_features else "genesis",
        model.bottleneck_channels * args.pooling**2,
        args.scale,
        extract,
        frozenset(arrays),
        weights_sha256=encoder,
        encoder_sha256=encoder,
        pretext_sha256=sha256_tensors(model.state_dict()) if restores else "",
    )


def load_or_extract(path, source, data, device, args):
    """The content of features.npz, computed if missing; UserError if made from other inputs."""
    if not path.exists():
        made = source.extract(Images(data, data.pool, device, args.pool_on))
        made["features"] = scaled(made["features"], source.scale)
        if not all(np.isfinite(array).all() for array in made.values()):
            raise UserError(f"{args.weights}: features are not finite; check weights and images")
        write_npz(path, ids=np.array(data.pool), **made, **source.origin)
    content = read_arrays(path, "features")
    for name, asked in source.origin.items():
        found = str(content.get(name))
        if found != asked:
            is_hash = name.endswith("sha256")
            other = "other weights" if is_hash else f"{name} {found}, not {asked}"
            raise UserError(
                f"{path}: features of {other}; delete it to make them again, or give another --out"
            )
    if content["ids"].tolist() != data.pool:
        raise UserError(f"{path}: features of another pool; delete it to make them again")
    return content


def reduce(features, dimensions, seed):
    """PCA to `dimensions`; 0 leaves the features as they are."""
    if dimensions == 0:
        return features
    return PCA(dimensions, random_state=seed).fit_transform(features).astype(np.float32)


# Choice -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pool:
    """What is known about the pool's N images, in the order of `data.pool`."""

    data: Data
    content: dict  # of features.npz
    features: np.ndarray  # float32 N x D, after --pca
    clusters: geometry.Clusters


def choose(pool, args):
    """Positions of the --budget images that --rule chooses: int64, in the order to label them."""
    arrays = {**pool.content, **vars(pool.clusters)}  # as the rounds of active learning read them
    labelled = np.zeros(len(pool.features), dtype=bool)
    rng = numpy_rng(args.seed, "cluster", "rule")
    view = View(labelled, rng, reader(args.out, arrays))
    return ask(COLD_STARTS[args.rule], view, args.budget).places


def silhouette(pool, seed):
    """Mean silhouette of (a sample of) the pool; None where it is not defined."""
    cluster, count = pool.clusters.cluster, len(pool.features)
    if not 1 < len(np.unique(cluster)) < count:
        return None
    sample = min(count, SILHOUETTE_SAMPLE)
    return float(silhouette_score(pool.features, cluster, sample_size=sample, random_state=seed))


def project(features, seed):
    """Coordinates for the map of the pool: (points float N x 2, name of the method).

    By t-SNE, or by PCA for features of one dimension, whose map is a line, for fewer than 10 images
    and for more than MAP_LIMIT. The map of one image is a point.
    """
    if 10 <= len(features) <= MAP_LIMIT and features.shape[1] > 1:
        start = PCA(min(50, *features.shape), random_state=seed).fit_transform(features)
        perplexity = min(30, len(features) / 4)
        return TSNE(perplexity=perplexity, random_state=seed).fit_transform(start), "t-SNE"
    dimensions = min(2, len(features) - 1, features.shape[1])  # n images differ in n - 1 at most
    points = np.zeros((len(features), 2), dtype=features.dtype)
    if dimensions:
        points[:, :dimensions] = PCA(dimensions, random_state=seed).fit_transform(features)
    return points, "PCA"


# Files ------------------------------------------------------------------------------------------


def draw(out, pool, chosen, kind, points, method):
    """latent.png, the map of the pool, and selection.png, the chosen images."""
    data, cluster = pool.data, pool.clusters.cluster
    mark = np.isin(np.arange(len(cluster)), chosen)
    title = f"{method} of {kind} features, {len(chosen)} of {len(mark)} chosen{data.note}"
    pictures.latent_map(out / "latent.png", points, cluster, mark, title)
    ids = [data.pool[place] for place in chosen]
    images, note = data.load_images(ids), data.note.strip()
    pictures.selection_sheet(out / "selection.png", images, cluster[chosen], ids, note)


def entries(pool, chosen):
    """The chosen images as selection.json lists them."""
    return [
        {
            "id": pool.data.pool[place],
            "cluster": int(pool.clusters.cluster[place]),
            "distance": float(pool.clusters.distance[place]),
        }
        for place in chosen
    ]


def report(args, pool, chosen, score):
    """Print the size of each cluster, how many are chosen from it, and the silhouette."""
    sizes, quotas = (
        np.bincount(cluster, minlength=args.k)
        for cluster in (pool.clusters.cluster, pool.clusters.cluster[chosen])
    )
    print("cluster  size  chosen")
    for k, (size, quota) in enumerate(zip(sizes, quotas, strict=True)):
        print(f"{k:7d} {size:5d} {quota:7d}")
    shown = "not defined" if score is None else f"{score:.3f}"
    print(
        f"k-means: {args.k} clusters, best of {args.n_init} starts, "
        f"silhouette {shown}{pool.data.note}"
    )
    print(f"wrote {len(chosen)} ids to {args.out}/selection.json, in the order to label them")


def check_sizes(args, count, dimensions):
    """UserError if --budget, --k or --pca is too large for `count` images or `dimensions`."""
    for name, value in (("budget", args.budget), ("k", args.k)):
        if value > count:
            raise UserError(
                f"--{name} {value}: the pool of {args.data} has only {count} images; give fewer"
            )
    limit = min(count, dimensions)
    if not 0 <= args.pca <= limit:
        raise UserError(
            f"--pca {args.pca}: give at most {limit}, the smaller of the numbers of images and "
            "features, or 0"
        )


def main():
    args = parse_args()
    claim(args.out)
    device = pick_device(args.device)
    data = open_data(args.data)
    source = open_source(args, data)
    check_sizes(args, len(data.pool), source.dimensions)
    for name, options in MADE_WITH.items():
        if name in COLD_STARTS[args.rule].reads - source.arrays:
            raise UserError(f"--rule {args.rule} needs {options}")
    inputs = {"data": data.fingerprint, "weights": source.weights_sha256}
    if source.pretext_sha256:
        inputs["whole model"] = source.pretext_sha256
    begin_stage(args.out, args, inputs)
    features_path = args.out / "features.npz"
    content = load_or_extract(features_path, source, data, device, args)
    if all((args.out / name).exists() for name in ("clusters.npz", "selection.json")):
        print(f"{args.out}: finished already")
        return

    seed = derived_seed(args.seed, "cluster") % 2**32
    used = reduce(content["features"], args.pca, seed)
    pool = Pool(data, content, used, geometry.kmeans(used, args.k, seed, args.n_init))
    chosen = choose(pool, args)

    origin = {"features_sha256": sha256_file(features_path), **source.origin}
    points, method = project(used, seed)
    clusters = {**vars(pool.clusters), "map": points}
    write_npz(args.out / "clusters.npz", ids=np.array(data.pool), **clusters, **origin)
    draw(args.out, pool, chosen, source.kind, points, method)
    score = silhouette(pool, seed)
    settings = {name: getattr(args, name) for name in ("rule", "pca", "k", "seed", "budget")}
    result = {**settings, "silhouette": score, **origin, "selection": entries(pool, chosen)}
    write_json(args.out / "selection.json", result)
    report(args, pool, chosen, score)


if __name__ == "__main__":
    run_script(main)
