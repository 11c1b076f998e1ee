"""Names of arms, the one place that reads them: COLDSTART[-QUERY][+MODIFIER...].

Without QUERY the cold-start rule also chooses the later rounds. The cold start `full` labels the
whole pool. A modifier sets one thing differently from the hyperparameters in run.sh; all of them
stand in MODIFIERS. Nothing here knows which strategies there are.
"""

import re
from dataclasses import dataclass, replace
from functools import cached_property

from segmentation.common.runfiles import UserError

GRAMMAR = (
    "ARM = COLDSTART[-QUERY][+MODIFIER...]; without QUERY the cold-start rule also chooses the "
    "later rounds"
)
FULL = "full"
NUMBER = "N"  # at the end of a modifier's name, stands for a whole number from 1 on
DRAW = re.compile(r"\+draw\d+(?=\+|$)")
SEES_FEATURES = {  # settings of cluster.py -> the arrays that they change
    "features": {"features", "cluster", "patterns"},
    "k": {"cluster"},
    "pooling": {"features", "cluster"},
    "scale": {"features", "cluster"},
}
PRETRAINED = ("genesis", "released")  # features that are those of the pretraining


@dataclass(frozen=True)
class Modifier:
    """What a part of an arm's name sets, and one line of help."""

    name: str
    setting: str  # an arm sets each at most once
    value: object  # True for an option without a value, NUMBER for the number in the name
    help: str

    def read(self, text):
        """This modifier as it is written in an arm's name, or None if `text` is another."""
        if self.value != NUMBER:
            return self if text == self.name else None
        match = re.fullmatch(f"{self.name.removesuffix(NUMBER)}([1-9][0-9]*)", text)
        if not match:
            return None
        help = re.sub(rf"\b{NUMBER}\b", match[1], self.help)
        return replace(self, name=text, value=int(match[1]), help=help)


MODIFIERS = (  # in the order in which an arm's name has them
    Modifier("unet", "network", "paper", "the paper's network, in place of ENCODER"),
    Modifier("backbone", "network", "given", "BACKBONE with the weights IMAGENET as encoder"),
    Modifier("untrained", "network", "random", "BACKBONE with random weights as encoder"),
    Modifier("scratch", "init", "none", "start from random weights, in place of INIT"),
    Modifier("encoder", "init", "encoder", "start from the pretrained encoder, in place of INIT"),
    Modifier("all", "init", "all", "start from the pretrained encoder and decoder"),
    Modifier("paper", "recipe", "paper", "the paper's recipe, trained from the start every round"),
    Modifier("strong", "recipe", "strong", "the strong recipe, in place of RECIPE"),
    Modifier("pretrained", "recipe", "pretrained", "the recipe that trains the decoder alone"),
    Modifier("stepsN", "steps", NUMBER, "N optimizer steps in each round, in place of STEPS"),
    Modifier("trained", "encoder_rate", 0.1, "the encoder learns too, at a tenth of the rate"),
    Modifier("noaugment", "augment", "none", "no augmentation"),
    Modifier("flips", "augment", "flips", "flips alone as augmentation"),
    Modifier("light", "augment", "light", "flips, contrast and brightness as augmentation"),
    Modifier("frozen", "frozen", True, "regression on a frozen ENCODER's features, no training"),
    Modifier("heads", "heads", True, "deep supervision; dsal needs it"),
    Modifier("teacher", "mean_teacher", True, "a mean teacher learns from the unlabelled pool too"),
    Modifier("selftrain", "self_train", True, "a second model learns the first one's own masks"),
    Modifier("largest", "finish", "largest", "masks are their largest region, without holes"),
    Modifier("views", "finish", "views", "masks are predicted as the mean over eight views"),
    Modifier("soft", "own_masks", "soft", "a student learns probabilities, not masks"),
    Modifier("half", "labelled_share", 0.5, "half of each batch of a student has true masks"),
    Modifier("imagenet", "features", "timm", "features of BACKBONE, with the weights IMAGENET"),
    Modifier("thumbnails", "features", "thumbnail", "the pixels of small copies are the features"),
    Modifier("masks", "features", "mask", "the pool's true masks are the features: it cheats"),
    Modifier("released1", "features", "released", "defects 1 and 2 of the released code: features"),
    Modifier("kN", "k", NUMBER, "N clusters, in place of K"),
    Modifier("pool1", "pooling", 1, "bottleneck pooled to 1x1, in place of POOLING"),
    Modifier("l2", "scale", "l2", "features of each image scaled to length 1"),
    Modifier("instance", "scale", "instance", "features of each image scaled to mean 0, sd 1"),
    Modifier("standard", "scale", "standard", "each feature scaled to mean 0, sd 1 over the pool"),
    Modifier("drawN", "draw", NUMBER, "another random draw, number N, all else alike"),
    Modifier("released4", "released_scale", True, "defect 4 of the released code: input scale"),
    Modifier("released5", "training_masks", True, "defect 5 of the released code: broken masks"),
)
KNOWN = ", ".join(f"+{modifier.name}" for modifier in MODIFIERS)


@dataclass(frozen=True)
class Arm:
    """One way to choose and train, as its name says."""

    cold_start: str
    query: str
    modifiers: tuple = ()  # of Modifier, in the order of MODIFIERS

    @property
    def is_full(self):
        """Whether it labels the whole pool at once."""
        return self.cold_start == FULL

    @cached_property
    def name(self):
        """The name that folders and tables have, whatever order the modifiers were written in."""
        query = "" if self.query == self.cold_start else f"-{self.query}"
        return "+".join([f"{self.cold_start}{query}", *(part.name for part in self.modifiers)])

    @cached_property
    def settings(self):
        """What the modifiers set: setting -> value."""
        return {part.setting: part.value for part in self.modifiers}

    @cached_property
    def features(self):
        """What its clustering is made of, as cluster.py names it."""
        return self.settings.get("features", PRETRAINED[0])

    @cached_property
    def pretraining(self):
        """The name of the pretraining that fits its network: `pretrain`, and what is different."""
        return "-".join(["pretrain", *self.names(("network",))])

    @cached_property
    def clustering(self):
        """The name of the clustering that it uses: `cluster`, and what is different in it."""
        of_network = ("network",) if self.features in PRETRAINED else ()
        return "-".join(["cluster", *self.names((*of_network, *SEES_FEATURES))])

    def names(self, settings):
        """The names of the modifiers that set one of these."""
        return [part.name for part in self.modifiers if part.setting in settings]


def parse(name):
    """The Arm of a name. UserError where a modifier is unknown, or sets what another one sets."""
    rule, *words = name.split("+")
    cold_start, _, query = rule.partition("-")
    if not cold_start or rule.endswith("-"):
        raise UserError(f"{name!r} is no arm; {GRAMMAR}")
    parts = {}
    for word in words:
        found = next((part for part in (m.read(word) for m in MODIFIERS) if part), None)
        if found is None:
            raise UserError(f"{name}: +{word} is not known; there are {KNOWN}")
        other = parts.setdefault(found.setting, found)
        if other is not found:
            if other == found:
                raise UserError(f"{name}: +{word} stands there twice; write it once")
            raise UserError(f"{name}: +{other.name} contradicts +{word}; remove one of them")
    order = [modifier.setting for modifier in MODIFIERS]
    modifiers = sorted(parts.values(), key=lambda part: order.index(part.setting))
    return Arm(cold_start, query or cold_start, tuple(modifiers))


def without_draw(name):
    """The name of the arm of which `name` is a further random draw; None if it is none."""
    return DRAW.sub("", name) if DRAW.search(name) else None


def legend(names):
    """One text that says what the modifiers in these names mean; "" if they have none.

    Names that are no arms (of folders that were named by hand) are passed over.
    """
    found = {}
    for name in names:
        try:
            parts = parse(name).modifiers
        except UserError:
            continue
        found |= {part.name: part.help for part in parts}
    return "; ".join(f"`+{name}`: {text}" for name, text in found.items())
