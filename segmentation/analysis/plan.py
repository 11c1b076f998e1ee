"""The calls of the scripts that carry an experiment out, from the hyperparameters in run.sh."""

import contextlib
import fnmatch
import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from segmentation.analysis.grammar import PRETRAINED, parse, without_draw
from segmentation.common.runfiles import UserError, round_name
from segmentation.common.schemas import repeated

STAGES = {  # of run.sh -> the steps of each, in order
    "prepare": ("data", "pretrain", "cluster"),
    "train": ("train",),
    "tables": ("choices", "tables", "diagnose", "evaluate"),
}


AS_THEY_ARE = (  # settings of an arm that are options of active_learning.py
    "encoder_rate",
    "augment",
    "frozen",
    "heads",
    "mean_teacher",
    "self_train",
    "own_masks",
    "labelled_share",
    "draw",
    "released_scale",
)


# Hyperparameters ----------------------------------------------------------------------------------


NATURAL, POSITIVE = "[0-9]+", "0*[1-9][0-9]*"
NUMBER = r"[0-9]+(\.[0-9]*)?(e-?[0-9]+)?"
COUNT = (POSITIVE, "a number from 1 on")
SETTINGS = {  # name -> (what it must match, in words)
    "GRAY": ("[01]", "1 for grayscale or 0 for colour"),
    "LINK_COPIES": ("[01]", "1 to keep copies of a photograph on one side of the split, or 0"),
    "DETERMINISTIC": ("[01]", "1 for the same bytes in each call on a GPU, or 0"),
    "MIXED": ("[01]", "1 for tables also of runs that different code has made, or 0"),
    "SEEDS": (r"\s*(0|[1-9][0-9]*)(\s+(0|[1-9][0-9]*))*\s*", "numbers such as '0 1 2'"),
    "SIZE": (r"[0-9]+(x[0-9]+)?", "pixels, such as 64 or 192x240"),
    "SPLIT_SEED": (f"-?{NATURAL}", "a number"),
    "TEST_COUNT": (f"({NATURAL})?", "a number, or nothing"),
    "INIT": ("none|encoder|all", "none, encoder or all"),
    "FINISH": (
        "(views|largest|both|views largest|largest views)?",
        "nothing, views, largest or both",
    ),
    "PRE_SEED": (rf"{NATURAL}|each", "a number or each"),
    "PRE_LR": (NUMBER, "a number such as 0.001"),
    "PRE_OPTIMIZER": ("sgd|adam", "sgd or adam"),
    "LR": (f"({NUMBER})?", "a number such as 0.001, or nothing"),
    "POOLING": ("[12]", "1 or 2"),
    "PCA": (NATURAL, "a number of dimensions; 0 for no PCA"),
    "INITIAL": (f"({POSITIVE}|all)?", "a number from 1 on, all, or nothing"),
    "ROUNDS": (NATURAL, "a number from 0 on"),
    "RECIPE": ("paper|strong|pretrained", "paper, strong or pretrained"),
    "STEPS": (f"({NATURAL})?", "a number, or nothing"),
    "DROPOUT": (r"0?\.[0-9]+|0\.?", "a number from 0 to less than 1, such as 0.5"),
    "AMP": ("auto|off|bf16|fp16", "auto, off, bf16 or fp16"),
    "COMPILE": ("off|on|graphs", "off, on or graphs"),
    "DEVICE": ("auto|cpu|cuda(:[0-9]+)?", "auto, cpu, cuda or cuda:N"),
    "JOBS": (r"auto|[1-9][0-9]*", "auto or a number from 1 on"),
    **dict.fromkeys(("WIDTH", "DEMO_IMAGES", "K", "PER_ROUND", "PASSES"), COUNT),
    **dict.fromkeys(("PRE_EPOCHS", "PRE_PATIENCE", "PRE_BATCH", "PRE_PROCESSES"), COUNT),
    **dict.fromkeys(
        ("POOL_COUNT", "EPOCHS", "MIN_STEPS", "EPOCHS_ROUND", "FULL_EPOCHS", "BATCH", "CHOICES"),
        (f"({POSITIVE})?", "a number from 1 on, or nothing"),
    ),
}


@dataclass(frozen=True)
class Table:
    """A line of TABLES: its name, the arm that the others are compared with, its arms."""

    name: str
    baseline: str
    arms: tuple  # of Arm

    @classmethod
    def of(cls, line):
        name, baseline, *arms = [*line.split(), "", ""][: max(2, len(line.split()))]
        if not arms:
            raise UserError(f"TABLES: {line.strip()!r} has no arms; give NAME BASELINE ARM...")
        if not re.fullmatch(r"\w[\w.+-]*", name):
            raise UserError(f"TABLES: {name!r} is no name for a folder; give letters and digits")
        arms = dict.fromkeys(parse(arm) for arm in arms)
        draws = baseline.removesuffix("+draws")  # the mean of ARM+draw1, ARM+draw2, ...
        with contextlib.suppress(UserError):  # a word that is no arm, such as none
            baseline = parse(draws).name + baseline.removeprefix(draws)
        return cls(name, baseline, tuple(arms))

    @property
    def has_baseline(self):
        """Whether the baseline is among the arms."""
        names = {arm.name for arm in self.arms}
        means = {f"{name}+draws" for name in map(without_draw, names) if name}
        return self.baseline in names | means


class Values(dict):
    """The hyperparameters of run.sh, by name, as it puts them into the environment.

    `looks`, a function of an arm, says whether its strategies read a clustering.
    """

    def __init__(self, values, looks=lambda arm: True):
        super().__init__(values)
        self.looks = looks

    def check(self):
        """UserError for a setting that is wrong whatever the scripts say, before anything runs."""
        for name, (fits, what) in SETTINGS.items():
            if not re.fullmatch(fits, self[name]):
                raise UserError(f"{name}={self[name]!r}: give {what}")
        for name, words in {
            "SEEDS": list(map(int, self["SEEDS"].split())),
            "TABLES": [table.name for table in self.tables()],
        }.items():
            if repeated(words) is not None:
                raise UserError(f"{name}: {repeated(words)} stands there twice; give it once")
        for name in ("ENCODER_WEIGHTS", "IMAGENET"):
            if self[name] not in ("", "imagenet", "package") and not Path(self[name]).is_file():
                raise UserError(f"{name}={self[name]}: no such file; give one, imagenet or package")
        numbers = [("BUDGETS", self["BUDGETS"])]
        for arm in self.arms():
            numbers.append(("OTHER_BUDGETS", self.budgets(arm)))
        for name, text in numbers:
            words = text.split()
            fits = all(re.fullmatch(POSITIVE, word) for word in words)
            if not fits or sorted(set(words), key=int) != words:
                raise UserError(f"{name}: {text.strip()!r} is no list of increasing numbers")
        self.check_labels()
        for table in self.tables():
            if table.baseline != "none" and not table.has_baseline:
                what = f"{table.baseline}, the baseline of {table.name}, is none of its arms"
                raise UserError(f"TABLES: {what}; add it, or give none (BASELINE=none)")

    def check_labels(self):
        """UserError where a cold start or CHOICES has a number of labels that no run has."""
        for arm in self.arms():
            if not (arm.is_full or self.budgets(arm).split() or self["INITIAL"]):
                raise UserError("BUDGETS and INITIAL are empty; give one of them")
        if self.clusterings() and not re.fullmatch(POSITIVE, self.first_budget()):
            what = f"INITIAL={self['INITIAL']!r}: the rules of cluster.py choose so many images"
            raise UserError(f"{what}; give a number, or BUDGETS")
        for arm in self.examined() if self["CHOICES"] else ():
            numbers = self.numbers(arm)
            if numbers and int(self["CHOICES"]) not in numbers:
                raise UserError(
                    f"CHOICES={self['CHOICES']}: {arm.name} is measured at {numbers} labels; give "
                    "one of these numbers, or nothing"
                )

    def numbers(self, arm):
        """The numbers of labels at which an arm is measured: a list; [] if that is the pool's."""
        budgets = self.budgets(arm).split()
        if budgets:
            return list(map(int, budgets))
        if self["INITIAL"] == "all":
            return []
        step = int(self["PER_ROUND"])
        return [int(self["INITIAL"]) + n * step for n in range(int(self["ROUNDS"]) + 1)]

    def examined(self):
        """The arms whose first choices are examined: the plain ones of the first table."""
        return [arm for arm in self.tables()[0].arms if not (arm.is_full or arm.modifiers)]

    def finish(self, arm):
        """The options of an arm's masks: FINISH and what the arm adds to it."""
        words = self["FINISH"].replace("both", "views largest").split()
        words += arm.settings.get("finish", "").split()
        return [dashed(word) for word in ("views", "largest") if word in words]

    def __missing__(self, name):
        raise UserError(f"{name} is not set; call this through run.sh, which sets it")

    def options(self, **names):
        """Words `--option value` of options whose values are set under these names."""
        return [word for option, name in names.items() for word in (dashed(option), self[name])]

    def given(self, **names):
        """The same of those whose value is not empty."""
        return self.options(**{option: name for option, name in names.items() if self[name]})

    def first_budget(self):
        """The number of labels of a cold start."""
        budgets = self["BUDGETS"].split()
        return budgets[0] if budgets else self["INITIAL"]

    def data_out(self):
        """The data folder."""
        if self["DATA_OUT"]:
            return self["DATA_OUT"]
        name = os.path.basename(os.path.abspath(self["DATA"]))
        colours = "gray" if self["GRAY"] == "1" else "colour"
        return f"data/{name}-{self['SIZE']}{colours}{'-linked' * int(self['LINK_COPIES'])}"

    def folder(self, stage, seed):
        """Where the pretraining or a clustering lies that this seed uses."""
        return f"{self['RUN']}/{stage}" + (f"/seed{seed}" if self["PRE_SEED"] == "each" else "")

    def prepared_seeds(self):
        """The seeds of pretrainings and clusterings: one for all runs, or each its own."""
        return self["SEEDS"].split() if self["PRE_SEED"] == "each" else [self["PRE_SEED"]]

    def tables(self):
        """The lines of TABLES. UserError if there is none."""
        tables = [Table.of(line) for line in self["TABLES"].splitlines() if line.strip()]
        if not tables:
            raise UserError("TABLES: is empty; give NAME BASELINE ARM...")
        return tables

    def arms(self):
        """The arms of all tables, each once, in order."""
        return list(dict.fromkeys(arm for table in self.tables() for arm in table.arms))

    def clusterings(self):
        """The name of every clustering that an arm reads, and that arm."""
        wanted = {arm.clustering: arm for arm in self.arms() if self.looks(arm)}
        if self["CHOICES"]:  # examined by the run's own features
            wanted.setdefault("cluster", parse("random"))
        return dict(sorted(wanted.items()))

    def pretrainings(self):
        """The name of every pretraining that an arm starts from or looks at, and that arm."""
        wanted = {}
        for arm in [*self.arms(), *self.clusterings().values()]:
            if self.init(arm) != "none":
                wanted[arm.pretraining] = arm
        for arm in self.clusterings().values():
            if arm.features in PRETRAINED:
                wanted[arm.pretraining] = arm
        return dict(sorted(wanted.items()))

    def init(self, arm):
        """What an arm copies from the pretraining."""
        return arm.settings.get("init", self["INIT"])

    def network(self, arm):
        """(encoder, its weights), as the scripts take them, of an arm's network."""
        return {
            "paper": ("paper", ""),
            "given": (self["BACKBONE"], self["IMAGENET"]),
            "random": (self["BACKBONE"], ""),
        }.get(arm.settings.get("network"), (self["ENCODER"], self["ENCODER_WEIGHTS"]))

    def budgets(self, arm):
        """Labels in all, round by round, by OTHER_BUDGETS or BUDGETS; "" if neither says."""
        for line in self["OTHER_BUDGETS"].splitlines():
            patterns, colon, numbers = line.partition(":")
            if line.strip() and not (colon and patterns.strip() and numbers.strip()):
                raise UserError(f"OTHER_BUDGETS: {line.strip()!r} is not PATTERN...: NUMBER...")
            if any(fnmatch.fnmatchcase(arm.name, pattern) for pattern in patterns.split()):
                return numbers
        return self["BUDGETS"]

    def share(self):
        """SHARD=i/n as (i, n)."""
        match = re.fullmatch(r"([1-9][0-9]*)/([1-9][0-9]*)", self["SHARD"])
        if not match or int(match[1]) > int(match[2]):
            raise UserError(f"SHARD={self['SHARD']} is not a share; give i/n, such as 1/4 to 4/4")
        return int(match[1]), int(match[2])


def dashed(option):
    """--like-this of like_this."""
    return f"--{option.replace('_', '-')}"


# Steps: functions of the values that give pairs of a name and words ------------------------------


def encoder_options(values, arm):
    """What the U-Net's encoder is, where it is not the paper's, which is the scripts' default."""
    encoder, weights = values.network(arm)
    if encoder == "paper" and not weights:
        return []
    return ["--encoder", encoder, *(["--encoder-weights", weights] if weights else [])]


def data_calls(values):
    out, arms = values.data_out(), values.arms()
    more = values.options(size="SIZE", seed="SPLIT_SEED")
    more.append("--gray" if values["GRAY"] == "1" else "--no-gray")
    more += ["--link-copies"] * int(values["LINK_COPIES"])
    more += values.given(pool_count="POOL_COUNT", test_count="TEST_COUNT", test_root="TEST_DATA")
    if values["DATA"] == "demo":
        more += values.options(demo="DEMO_IMAGES")
    elif values["DATA"] == "isic2017":
        more += ["--download", "--root", "downloads/isic2017"]
    else:
        more += values.options(root="DATA")
    yield "data", ["preprocess.py", "--out", out, *more]
    if any("training_masks" in arm.settings for arm in arms):
        words = ["preprocess.py", "--out", f"{out}-released5", *more, "--released-masks"]
        yield "data-released5", words


def pretrain_calls(values):
    launch = []
    if values["PRE_PROCESSES"] != "1":
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]
        launch.append(values["PRE_PROCESSES"])
    words = [*launch, "self_supervised/pretrain.py", "--data", values.data_out()]
    words += values.options(width="WIDTH", epochs="PRE_EPOCHS", patience="PRE_PATIENCE")
    words += values.options(optimizer="PRE_OPTIMIZER", lr="PRE_LR", batch="PRE_BATCH")
    words += values.options(device="DEVICE", amp="AMP", compile="COMPILE")
    words += ["--deterministic"] * int(values["DETERMINISTIC"])
    for seed in values.prepared_seeds():
        for name, arm in values.pretrainings().items():
            folder = values.folder(name, seed)
            more = [*encoder_options(values, arm), "--out", folder, "--seed", seed]
            yield relative(folder, values), [*words, *more]


def cluster_calls(values):
    """For each pretraining, every clustering that an arm uses."""
    words = ["cluster.py", "--data", values.data_out(), *values.options(pca="PCA", device="DEVICE")]
    for seed in values.prepared_seeds():
        for name, arm in values.clusterings().items():
            folder, options = values.folder(name, seed), cluster_options(values, arm, seed)
            yield relative(folder, values), [*words, "--out", folder, *options, "--seed", seed]


def cluster_options(values, arm, seed):
    """What makes a clustering what it is."""
    features = arm.features
    if features in PRETRAINED:
        words = ["--weights", f"{values.folder(arm.pretraining, seed)}/best.pt"]
        words += ["--released-features"] if features == "released" else []
    else:
        words = ["--features", features]
    if features == "timm":
        words += values.options(weights="IMAGENET", backbone="BACKBONE")
    for setting, name in {"pooling": "POOLING", "scale": None, "k": "K"}.items():
        default = values[name] if name else "none"
        words += [dashed(setting), str(arm.settings.get(setting, default))]
    return [*words, "--budget", values.first_budget()]


def train_calls(values):
    """Arm by arm, seed by seed, of this share: the long runs of full supervision come first."""
    words = ["segmentation/active_learning.py"]
    words += values.options(width="WIDTH", dropout="DROPOUT", passes="PASSES")
    words += values.options(device="DEVICE", amp="AMP")
    words += ["--deterministic"] * int(values["DETERMINISTIC"])
    calls = []
    for arm in values.arms():
        for seed in values["SEEDS"].split():
            out = ["--out", f"{values['RUN']}/seg/{arm.name}/seed{seed}", "--seed", seed]
            more = [*encoder_options(values, arm), *out, *run_options(values, arm, seed)]
            calls.append((f"{arm.name}/seed{seed}", [*words, *more]))
    share, shares = values.share()
    return calls[share - 1 :: shares]


def run_options(values, arm, seed):
    """What makes a run what it is."""
    settings, epochs = arm.settings, "EPOCHS"
    cold_start, query = arm.cold_start, arm.query
    budgets = values.budgets(arm).split()
    rounds = ["--budgets", *budgets]
    if arm.is_full:
        cold_start = query = "random"
        rounds, epochs = ["--initial", "all", "--rounds", "0"], "FULL_EPOCHS"
    elif not budgets:
        rounds = values.options(initial="INITIAL", per_round="PER_ROUND", rounds="ROUNDS")
    init = values.init(arm)
    tuned = values.given(epochs=epochs, epochs_round="EPOCHS_ROUND", min_steps="MIN_STEPS")
    tuned += values.given(batch="BATCH", lr="LR")
    if "recipe" in settings:  # as it is, but comparable at every budget
        tuned = ["--from-scratch"]
    if settings.get("steps", values["STEPS"]):
        tuned += ["--steps", str(settings.get("steps", values["STEPS"]))]
    if "frozen" in settings and values.network(arm)[0] == "paper":
        raise UserError(f"{arm.name}: set ENCODER to a backbone of timm for +frozen")
    recipe, trained = settings.get("recipe", values["RECIPE"]), "encoder_rate" in settings
    if recipe == "pretrained" and init == "none" and not (values.network(arm)[1] or trained):
        what = "recipe pretrained leaves the encoder as it is, here random"
        raise UserError(f"{arm.name}: {what}; add +strong or +trained, or give ENCODER_WEIGHTS")
    more = []
    for name in AS_THEY_ARE:
        if name in settings:
            value = settings[name]
            more += [dashed(name)] if value is True else [dashed(name), str(value)]
    more += values.finish(arm)
    if "training_masks" in settings:
        more += ["--training-masks", f"{values.data_out()}-released5"]
    if init != "none":
        more += ["--weights", f"{values.folder(arm.pretraining, seed)}/best.pt"]
    clusters = values.folder(arm.clustering, seed)
    chosen = ["--cold-start", cold_start, "--query", query, "--init", init, "--recipe", recipe]
    data = ["--data", values.data_out()]
    return [*data, *chosen, *tuned, *rounds, *more, "--clusters", clusters]


def tables_calls(values):
    for table in values.tables():
        names = [arm.name for arm in table.arms]
        words = ["segmentation/tables.py", "--runs", f"{values['RUN']}/seg", "--arms", *names]
        words += ["--baseline", table.baseline] if table.has_baseline else []
        for arm in table.arms:
            words += ["--bound", arm.name] if arm.is_full else []
        name = "tables" if table.name == "tables" else f"tables/{table.name}"
        yield name, [*words, "--out", f"{values['RUN']}/{name}"]


def examined(values):
    """Options that choices.py and diagnose.py share; [] if there is no arm to examine."""
    arms = [arm.name for arm in values.examined()]
    if not (values["CHOICES"] and arms):
        return []
    runs = ["--runs", f"{values['RUN']}/seg", "--arms", *arms, "--data", values.data_out()]
    return [*runs, *values.options(budget="CHOICES")]


def choices_calls(values):
    seed, words = values["SEEDS"].split()[0], examined(values)
    if words:
        words += ["--seed", seed, "--clusters", values.folder("cluster", seed)]
        yield "choices", ["segmentation/choices.py", *words, "--out", f"{values['RUN']}/choices"]


def diagnose_calls(values):
    words, run = examined(values), values["RUN"]
    if words:
        wanted = [n for n, arm in values.clusterings().items() if "k" not in arm.settings]
        words += ["--clusters", *(f"{run}/{name}" for name in wanted)]
        yield "diagnose", ["segmentation/diagnose.py", *words, "--out", f"{run}/diagnosis"]


def evaluate_calls(values):
    """A look at the predictions of the first arm; of any other where that has no weights yet."""
    first = f"{values.arms()[0].name}/seed{values['SEEDS'].split()[0]}"
    runs = Path(values["RUN"]) / "seg"
    found = sorted((runs / first).rglob("weights.pt")) or sorted(runs.rglob("weights.pt"))
    weights = found[-1] if found else runs / first / round_name(0) / "weights.pt"
    words = ["segmentation/evaluate.py", "--data", values.data_out(), "--weights", str(weights)]
    words += ["--split", "test", "--out", f"{values['RUN']}/evaluate"]
    yield "evaluate", [*words, *values.options(device="DEVICE")]


def relative(folder, values):
    """The name of a call that fills `folder`."""
    return folder.removeprefix(f"{values['RUN']}/")


CALLS = {
    "data": data_calls,
    "pretrain": pretrain_calls,
    "cluster": cluster_calls,
    "train": train_calls,
    "tables": tables_calls,
    "choices": choices_calls,
    "diagnose": diagnose_calls,
    "evaluate": evaluate_calls,
}


def calls(step, values):
    """The lines of a step. UserError for a value that would not be one line."""
    for name, words in CALLS[step](values):
        line = shlex.join([step, name, *words])
        if "\n" in line:
            raise UserError(f"{line.splitlines()[0]}...: a name has a line break; rename it")
        yield line
