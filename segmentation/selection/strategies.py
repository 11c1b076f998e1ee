"""Strategies by name: which images to label next.

To add one, write a pure function, as in coldstart.py, patterns.py, query.py, recent.py and
sizefree.py, and add it to a table below. A strategy is called with a View and a budget, and returns
that many distinct positions of unlabelled images in the pool, or an Answer if there is more to
return.

A cold start chooses without a model. Used as a query, it adds to the images labelled already.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

from segmentation.data.images import Images
from segmentation.model.inference import Inference
from segmentation.selection import coldstart, patterns, query, recent, sizefree, uncertainty


@dataclass(frozen=True)
class Strategy:
    """A way to choose images, and what an arm needs to know about it."""

    choose: Callable  # (View, budget) -> int64 positions in the pool, or an Answer
    help: str  # one line
    reads: frozenset = frozenset()  # names of the arrays in cluster.py's folder that it uses
    draws: bool = False  # whether it draws at random: another View.rng, another choice
    dropout: bool = False  # whether the model needs dropout
    heads: bool = False  # whether the model must have the heads of deep supervision


@dataclass(frozen=True)
class Answer:
    """Which images a strategy chose, and why."""

    places: np.ndarray  # int64 positions in the pool, in the order to label them
    scores: np.ndarray | None = None  # float64, of all unlabelled images, in the pool's order
    sources: list | None = None  # for each place, the part of the strategy that chose it
    pseudo: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))  # to pseudo-label
    note: str = ""


@dataclass(frozen=True)
class View:
    """What a strategy may use: the pool by position (in id order), its labels, the model."""

    labelled: np.ndarray  # boolean N
    rng: np.random.Generator  # of this round
    read: Callable  # read(name): that array of cluster.py's folder, or UserError
    number: int = 0  # of the round
    images: Images | None = None  # of the pool; like the model and how it is run, for queries
    model: object = None  # after the last round; None in a cold start
    passes: int = 0  # of Monte Carlo dropout
    stream: tuple = ()  # of their dropout masks: a seed and names
    inference: Inference | None = None  # how the model is run over the images
    ceal: query.CealSettings | None = None  # groups and pseudo-labels of CEAL and DSAL

    @property
    def unlabelled(self):
        """Positions of the unlabelled images, int64."""
        return np.flatnonzero(~self.labelled)

    @property
    def features(self):
        """Features of the pool, float32 N x D."""
        return self.read("features")

    @property
    def clusters(self):
        """k-means of the features: cluster int64 N, and distance to its centroid float64 N."""
        return self.read("cluster"), self.read("distance")

    def score(self, function):
        """A score of uncertainty.py or sizefree.py of all unlabelled images: float64, in order."""
        monte_carlo = function in (uncertainty.score_ceal, uncertainty.score_bald)
        more = (self.passes, self.stream) if monte_carlo else ()
        assert self.images is not None and self.inference is not None
        images = self.images.subset(torch.from_numpy(self.unlabelled))
        return function(self.model, images, *more, *self.inference)

    def bottleneck(self):
        """The model's own features of the pool: its pooled bottleneck, float32 N x D."""
        assert self.inference is not None
        return uncertainty.pooled_bottleneck(self.model, self.images, *self.inference)


def from_features(rule):
    """Make a strategy from a rule(features, labelled, budget, rng) of coldstart.py."""
    return lambda view, budget: rule(view.features, view.labelled, budget, view.rng)


def nearest_in_clusters(view, budget):
    """SAAL's rule; the score of an image is minus the distance to its own centroid."""
    cluster, distance = view.clusters
    places = coldstart.saal(cluster, distance, view.labelled, budget)
    return Answer(places, -distance[view.unlabelled])


def most(score, pick=query.highest):
    """Make a strategy that chooses by `pick(scores, budget)` from an uncertainty `score`."""

    def strategy(view, budget):
        scores = view.score(score)
        return Answer(view.unlabelled[pick(scores, budget)], scores)

    return strategy


def drawn(score, pick):
    """The same with a `pick(scores, budget, rng)`."""
    return lambda view, budget: most(score, lambda s, b: pick(s, b, view.rng))(view, budget)


def ceal(view, budget):
    """CEAL's three groups and its pseudo-labels."""
    scores = view.score(uncertainty.score_ceal)
    chosen, groups, note = query.ceal(scores, budget, view.rng, view.ceal)
    sources = [f"ceal {group}" for group in groups]
    return with_pseudo(view, query.ceal_pseudo, scores, chosen, sources, note)


def dsal(view, budget):
    """Where the model's heads disagree most; pseudo-labels where they agree most."""
    scores = view.score(uncertainty.score_dsal)
    return with_pseudo(view, query.dsal_pseudo, scores, query.highest(scores, budget))


def with_pseudo(view, rule, scores, chosen, sources=None, note=""):
    """An Answer with the `chosen` unlabelled images and those that `rule` pseudo-labels."""
    asked = np.isin(np.arange(len(scores)), chosen)
    pseudo = rule(scores, view.number, view.rng, view.ceal, asked)
    places = view.unlabelled
    return Answer(places[chosen], scores, sources, places[pseudo], note)


def badge(view, budget):
    """k-means++ on the model's features, scaled by its uncertainty."""
    scores = view.score(uncertainty.score_margin)
    features = view.bottleneck()
    chosen = query.badge(
        features[view.unlabelled], scores, budget, view.rng, features[view.labelled]
    )
    return Answer(view.unlabelled[chosen], scores)


def stratified(view, budget):
    """A random draw, even over the sizes of the predicted lesions."""
    shares = view.score(sizefree.predicted_shares)
    return Answer(view.unlabelled[sizefree.stratified(shares, budget, view.rng)])


def clasp(view, budget):
    """Uncertain with noise that fades, most of the batch even over the sizes of the lesions."""
    scores = view.score(sizefree.score_border)
    overall, shares = view.score(uncertainty.score_entropy), view.score(sizefree.predicted_shares)
    chosen = sizefree.clasp(scores, overall, shares, budget, view.rng, view.number)
    return Answer(view.unlabelled[chosen], scores)


def clue(view, budget):
    """k-means on the model's features, images weighted by an uncertainty without size."""
    scores = view.score(sizefree.score_foreground)
    features = view.bottleneck()[view.unlabelled]
    return Answer(view.unlabelled[sizefree.clue(features, scores, budget, view.rng)], scores)


def uncertainty_herding(view, budget):
    """MaxHerding with each image weighted by the model's uncertainty."""
    scores = view.score(uncertainty.score_entropy)
    weights = np.zeros(len(view.labelled))
    weights[view.unlabelled] = scores
    rule = coldstart.uncertainty_herding
    return Answer(rule(view.features, view.labelled, budget, view.rng, weights), scores)


FEATURES, CLUSTERS = frozenset({"features"}), frozenset({"cluster", "distance"})

COLD_STARTS = {  # choose without a model
    "random": Strategy(
        lambda view, budget: coldstart.random(view.labelled, budget, view.rng),
        "uniformly at random, a new draw for each seed",
        draws=True,
    ),
    "saal": Strategy(
        nearest_in_clusters,
        "nearest to each cluster's centroid, in proportion to the cluster's size (2205.07021)",
        CLUSTERS,
    ),
    "kmeans": Strategy(
        from_features(coldstart.kmeans_nearest),
        "nearest to each centroid of a k-means with as many clusters as labels",
        FEATURES,
        draws=True,
    ),
    "typiclust": Strategy(
        from_features(coldstart.typiclust),
        "the most typical image of each cluster without a label (2202.02794)",
        FEATURES,
        draws=True,
    ),
    "probcover": Strategy(
        from_features(coldstart.probcover),
        "greedily, to cover the most images within a radius (2205.11320)",
        FEATURES,
        draws=True,
    ),
    "maxherding": Strategy(
        from_features(coldstart.max_herding),
        "greedily, for the largest mean similarity to the nearest label (2407.12212)",
        FEATURES,
    ),
    "kcenter": Strategy(
        from_features(coldstart.k_center),
        "greedily, the image farthest from all labels (CoreSet, 1708.00489)",
        FEATURES,
        draws=True,
    ),
    "usl": Strategy(
        from_features(coldstart.usl),
        "images in dense regions, away from those chosen (2110.03006)",
        FEATURES,
        draws=True,
    ),
    "pt4al": Strategy(
        lambda view, budget: coldstart.pretext_loss(
            view.read("pretext_loss"), view.labelled, budget, view.rng
        ),
        "evenly over the tenth of the pool that the pretrained model restores worst (2201.07459)",
        frozenset({"pretext_loss"}),
    ),
    "repdiv": Strategy(
        from_features(recent.rep_div),
        "seven tenths representative by cosine, the others farthest from these (2508.03441)",
        FEATURES,
    ),
    "cscs": Strategy(
        lambda view, budget: recent.cscs(
            view.features, view.read("pretext_loss"), view.labelled, budget, view.rng
        ),
        "in each cluster, an image both typical and hard to restore (after 2606.20765)",
        frozenset({"features", "pretext_loss"}),
        draws=True,
    ),
    "medoids": Strategy(
        from_features(recent.medoids),
        "the medoids of few clusters, then the farthest images inside them (after 2601.18532)",
        FEATURES,
        draws=True,
    ),
    "patterns": Strategy(
        lambda view, budget: patterns.by_patterns(
            view.read("patterns"), view.labelled, budget, view.rng
        ),
        "at random, images with places that look like none in those chosen (after 2309.17342)",
        frozenset({"patterns"}),
        draws=True,
    ),
    "typicover": Strategy(
        from_features(coldstart.typical_cover),
        "ours: resembles many images that no label resembles yet (after maxherding)",
        FEATURES,
    ),
    "permuted": Strategy(
        lambda view, budget: coldstart.permuted(
            *view.clusters, labelled=view.labelled, budget=budget, rng=view.rng
        ),
        "control: as saal, but with the features of other images",
        CLUSTERS,
        draws=True,
    ),
    "first": Strategy(
        lambda view, budget: coldstart.first(view.labelled, budget),
        "control: the first images by id, no random draw",
    ),
}
BY_MODEL = {  # use the model of the last round
    "entropy": Strategy(most(uncertainty.score_entropy), "the largest mean entropy"),
    "margin": Strategy(
        most(uncertainty.score_margin), "the smallest mean margin between the classes"
    ),
    "bald": Strategy(
        most(uncertainty.score_bald),
        "where dropout passes disagree most (1112.5745)",
        dropout=True,
    ),
    "ceal": Strategy(
        ceal,
        "CEAL's three groups of uncertainty, and its pseudo-labels (1711.09168)",
        draws=True,
        dropout=True,
    ),
    "dsal": Strategy(
        dsal,
        "where the heads of deep supervision disagree most; CRF-cleaned pseudo-labels (2101.09057)",
        draws=True,
        heads=True,
    ),
    "coreset": Strategy(
        lambda view, budget: coldstart.k_center(view.bottleneck(), view.labelled, budget, view.rng),
        "as kcenter, on the current model's features (1708.00489)",
    ),
    "badge": Strategy(
        badge,
        "k-means++ on the current model's features, scaled by uncertainty (after 1906.03671)",
        draws=True,
    ),
    "power": Strategy(
        drawn(uncertainty.score_entropy, query.power),
        "drawn at random, in proportion to the mean entropy (2106.12059)",
        draws=True,
    ),
    "batches": Strategy(
        drawn(uncertainty.score_entropy, query.stochastic_batches),
        "among many random batches, the one with the largest mean entropy (2301.07670)",
        draws=True,
    ),
    "border": Strategy(
        most(sizefree.score_border), "ours: the largest entropy per pixel of the predicted border"
    ),
    "foreground": Strategy(
        most(sizefree.score_foreground),
        "the largest mean entropy in and around the predicted lesion (after 2606.20765)",
    ),
    "threshold": Strategy(
        most(sizefree.score_threshold),
        "the largest mean entropy of the pixels above a common threshold (2401.08501)",
    ),
    "clasp": Strategy(
        clasp,
        "uncertain, with noise that fades, and evenly over lesion sizes (after 2601.13677)",
        draws=True,
    ),
    "clue": Strategy(
        clue,
        "k-means on the model's features weighted by uncertainty (CLUE)",
        draws=True,
    ),
    "strata": Strategy(
        stratified,
        "control: at random, evenly over the sizes of the predicted lesions",
        draws=True,
    ),
    "uherding": Strategy(
        uncertainty_herding,
        "as maxherding, by uncertainty, its radius shrinks as labels grow (after 2412.20644)",
        FEATURES,
    ),
}

QUERIES = COLD_STARTS | BY_MODEL


def ask(strategy, view, budget):
    """Call a strategy and check its answer: exactly `budget` distinct, unlabelled images."""
    answer = strategy.choose(view, budget)
    if not isinstance(answer, Answer):
        answer = Answer(answer)
    places = answer.places
    assert len(set(places.tolist())) == len(places) == budget and not view.labelled[places].any()
    return answer
