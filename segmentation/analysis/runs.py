"""The finished runs of an experiment, from their files."""

from dataclasses import dataclass, replace

import numpy as np

from segmentation.analysis.grammar import without_draw
from segmentation.common.runfiles import UserError, read_csv, read_json, round_name
from segmentation.common.schemas import ABOUT_1, Record, State, read_checked
from segmentation.data.cost import Cost
from segmentation.model import metrics

FIX = "delete the run's folder and run segmentation/active_learning.py again"
OF_A_SEED = {  # options that may differ between the seeds of an arm; files count by their content
    *("seed", "out", "device", "pool_on", "data", "clusters", "weights", "encoder_weights"),
    "training_masks",
}


@dataclass(frozen=True)
class Run:
    """A finished run: with `labels[r]` labels, round r gave the mean metrics `means[r]`."""

    arm: str
    seed: int
    synthetic: bool
    labels: list  # ints
    means: list  # dicts of floats, over the test images
    dice: np.ndarray  # test images (in the order of their ids) x rounds
    steps: list  # optimizer steps of each round's training; None where older runs do not say
    costs: dict | None = None  # field of Cost -> its sum up to each round; None: not known
    combined: bool = False  # of several draws, see `combine_draws`

    def dice_at(self, budgets):
        """The Dice at these numbers of labels, test images x budgets."""
        return self.dice[:, [self.labels.index(labels) for labels in budgets]]


def read_runs(folder, arms=None, partial=False, mixed=False):
    """The finished runs under `folder`, and notes on the others.

    `arms` (names) limits what is read. Returns a list of Run and a list of texts. UserError if no
    run is finished, if two runs have different data, unless `partial` if an arm of `arms` has no
    run, and unless `mixed` if runs were made by different code, or seeds of an arm by different
    options.
    """
    states, missing = read_states(folder, arms, partial)
    done = [pair for pair in states if is_finished(pair[1])]
    if not done:
        raise UserError(f"{folder}: no run is finished; continue segmentation/active_learning.py")
    run_folder, state = done[0]
    for other, its_state in done:
        if its_state.get("data") != state.get("data"):
            raise UserError(
                f"{other}/state.json: is of other data than {run_folder}; "
                "keep runs on different data in different --runs folders"
            )
    run_folders = [run_folder for run_folder, _ in done]
    mixed_notes = check_code(folder, run_folders, mixed)
    mixed_notes += check_settings(folder, run_folders, mixed)
    test_ids = set(read_metrics(round_path(run_folder, state["rounds"][0], "metrics.csv")))
    unfinished = [
        f"{run_folder.parent.name}/{run_folder.name} ({len(state['rounds'])})"
        for run_folder, state in states
        if not is_finished(state)
    ]
    notes = [f"No run yet: {', '.join(missing)}."] if missing else []
    notes += mixed_notes
    if unfinished:
        notes.append(f"Left out, unfinished (rounds done): {', '.join(unfinished)}.")
    return [read_run(*pair, test_ids) for pair in done], notes


def check_code(where, run_folders, mixed):
    """UserError, or if `mixed` a note, where runs were made by different code: a list of texts."""
    codes = by_code(run_folders)
    if len(codes) < 2:
        return []
    if not mixed:
        raise UserError(
            f"{where}: its runs were made by different code ({listed_codes(codes)}); make them "
            "again by one, or give --mixed (run.sh: MIXED=1) to have them in one table all the same"
        )
    return [f"**Runs of different code:** {listed_codes(codes)}."]


def by_code(run_folders):
    """Runs by the hash of the code that made them: "" or hash -> names (ARM/seedS).

    A run that was continued by other code has several. Runs from before there was such a hash have
    "", and rounds from before they had one that of the start of their run.
    """
    found = {}
    for run_folder in run_folders:
        path = run_folder / "env.json"
        first = read_json(path, FIX).get("sources", "") if path.exists() else ""
        rounds = read_state(run_folder / "state.json")["rounds"]
        for code in dict.fromkeys([first, *(entry.get("sources") or first for entry in rounds)]):
            found.setdefault(code, []).append(f"{run_folder.parent.name}/{run_folder.name}")
    return found


def check_settings(folder, run_folders, mixed):
    """UserError, or if `mixed` a note, where seeds of an arm have different options: texts.

    Options that only one of two runs has recorded are of different versions, and not compared.
    """
    first, found = {}, []
    for run_folder in run_folders:
        path = run_folder / "args.json"
        if not path.exists():
            continue
        args = read_checked(path, Record, FIX)["args"]
        other, old = first.setdefault(run_folder.parent.name, (run_folder.name, args))
        for name in sorted(args.keys() & old.keys() - OF_A_SEED):
            if args[name] != old[name]:
                option = f"--{name.replace('_', '-')}"
                what = f"{other} has {option} {old[name]}, {run_folder.name} {args[name]}"
                found.append(f"{run_folder.parent.name}: {what}")
                break
    if found and not mixed:
        raise UserError(
            f"{folder}/{found[0]}; make them again by the same options, or give --mixed (run.sh: "
            "MIXED=1) to have them in one table all the same"
        )
    return [f"**Seeds of an arm with different options:** {'; '.join(found)}."] if found else []


def listed_codes(codes):
    """`abc1234: 3 runs, such as saal/seed0; ...`"""
    return "; ".join(
        f"{code[:7] or 'not recorded'}: {len(names)} runs, such as {names[0]}"
        for code, names in codes.items()
    )


def read_states(folder, arms, partial):
    """Pairs (a run's folder, its state) in the order of their names, and the arms without a run."""
    run_folders = sorted(
        path for path in folder.glob("*/seed*") if arms is None or path.parent.name in arms
    )
    missing = sorted(set(arms or ()) - {path.parent.name for path in run_folders})
    if not run_folders or (missing and not partial):
        raise UserError(
            f"{folder}: holds no run {missing[0] if missing else 'ARM'}/seedS; "
            "run segmentation/active_learning.py, or correct --runs and --arms"
        )
    return [(path, read_state(path / "state.json")) for path in run_folders], missing


def read_state(path):
    """A run's state; one without rounds if the run stopped before the end of its first round."""
    if not path.exists():
        return {"rounds": [], "rounds_planned": 0}
    state = read_checked(path, State, FIX)
    name = f"seed{state['seed']}"
    if path.parent.name != name:
        raise UserError(f"{path}: is of seed {state['seed']}; rename its folder to {name}")
    return state


def is_finished(state):
    """Whether a run has done all its rounds: round 0 and those planned after it."""
    return len(state["rounds"]) > state["rounds_planned"]


def first_labels(run_folder, budget):
    """The first `budget` ids that a run labelled. UserError if it has not labelled as many."""
    fix = "run segmentation/active_learning.py"
    state = read_checked(run_folder / "state.json", State, fix)
    ids = [entry["id"] for entry in state["labelled"]]
    if len(ids) < budget:
        raise UserError(f"{run_folder}/state.json: has {len(ids)} labels; give a smaller --budget")
    return ids[:budget]


def round_path(run_folder, entry, name):
    """A file of an entry of a state's list of rounds."""
    return run_folder / round_name(entry["round"]) / name


def read_run(run_folder, state, test_ids):
    """The Run of a finished state. UserError where its test images are not `test_ids`."""
    means, dice = [], []
    for entry in state["rounds"]:
        path = round_path(run_folder, entry, "metrics.csv")
        rows = read_metrics(path)
        if set(rows) != test_ids:
            raise UserError(
                f"{path}: has other test images than the first run; "
                "keep runs on different data in different --runs folders"
            )
        means.append(metrics.mean(list(rows.values())))
        dice.append([rows[name]["dice"] for name in sorted(rows)])
    costs = spent(run_folder, state)
    labels = [entry["labels"] for entry in state["rounds"]]
    arm, seed, synthetic = run_folder.parent.name, state["seed"], state["synthetic"]
    steps = [entry.get("steps") for entry in state["rounds"]]
    return Run(arm, seed, synthetic, labels, means, np.array(dice).T, steps, costs)


def spent(run_folder, state):
    """What the labels up to each round have cost: a dict from each field of Cost to a list of sums.

    None if a round has no cost.csv, as in older runs. UserError where one has other images than
    those that `state` says were labelled in its round.
    """
    sums = []
    for entry in state["rounds"]:
        path = round_path(run_folder, entry, "cost.csv")
        if not path.exists():
            return None
        rows = read_costs(path)
        if set(rows) != {one["id"] for one in state["labelled"] if one["round"] == entry["round"]}:
            raise UserError(f"{path}: has other images than were labelled in this round; {FIX}")
        sums.append([sum(row[name] for row in rows.values()) for name in Cost._fields])
    columns = np.cumsum(sums, axis=0).T.tolist()
    return dict(zip(Cost._fields, columns, strict=True))


def have_costs(runs):
    """Whether it is known of all these runs what their labels cost."""
    return all(run.costs is not None for run in runs)


def read_costs(path):
    """A cost.csv as a dict id -> dict of floats. UserError where it is incomplete."""
    found = read_numbers(path, {"outline": np.inf, "corrected": 1, "redrawn": np.inf})
    for image, row in found.items():
        if row["redrawn"] > row["outline"]:
            raise UserError(f"{path}: more is redrawn of {image} than its outline; {FIX}")
    return found


def read_metrics(path):
    """A metrics.csv as a dict id -> dict of floats. UserError where it is incomplete."""
    most = {**dict.fromkeys(metrics.NAMES, 1), "hd95": np.inf}
    return read_numbers(path, most, confidence=ABOUT_1)


def read_numbers(path, most, **newer):
    """A CSV file as a dict id -> dict of floats, of its columns in `most`.

    Columns in `newer`, of the same kind, may be missing. UserError where a row or another
    column is missing, an image is there twice, or a value is not a finite number from 0 to `most`
    of its column.
    """
    rows = read_csv(path, fix=FIX)
    most = most | {name: end for name, end in newer.items() if rows and name in rows[0]}
    for name in ("id", *most):
        if not rows or name not in rows[0]:
            raise UserError(f"{path}: has no row or no column {name}; {FIX}")
    try:
        found = {row["id"]: {name: float(row[name]) for name in most} for row in rows}
    except (TypeError, ValueError):
        raise UserError(f"{path}: holds a value that is not a number; {FIX}") from None
    if len(found) < len(rows):
        raise UserError(f"{path}: lists an image twice; {FIX}")
    for image, row in found.items():
        for name, value in row.items():
            if not 0 <= value <= most[name] or not np.isfinite(value):
                raise UserError(f"{path}: {name} of {image} is {value:g}, which cannot be; {FIX}")
    return found


def by_arm(runs, arms=None):
    """Runs grouped by arm, as a dict in the order of `arms` or of the alphabet.

    UserError where the runs of one arm did not label equally many images in each round.
    """
    groups = {arm: [] for arm in arms or sorted({run.arm for run in runs})}
    for run in sorted(runs, key=lambda run: run.seed):
        groups[run.arm].append(run)
    for arm, group in groups.items():
        for run in group:
            if run.labels != group[0].labels:
                raise UserError(
                    f"{arm}: seed {run.seed} went from {run.labels[0]} to {run.labels[-1]} labels, "
                    f"unlike seed {group[0].seed}; give them different names or run one again"
                )
    return {arm: group for arm, group in groups.items() if group}


# Pairs of arms ----------------------------------------------------------------------------------


def pairs(group, baseline):
    """Pairs of runs of two arms, by the seeds that both have."""
    others = {run.seed: run for run in baseline}
    return [(run, others[run.seed]) for run in group if run.seed in others]


def common_budgets(group, baseline):
    """The numbers of labels that two arms share, ascending."""
    return [labels for labels in group[0].labels if labels in baseline[0].labels]


# Random draws -----------------------------------------------------------------------------------


def combine_draws(groups):
    """Replace the arms NAME+drawN by two, which come last: NAME+draws, their mean, and NAME+best.

    The best is chosen in each round by its Dice on the test images themselves: it shows what
    choosing among these draws could gain, and is no strategy. Only seeds with all draws count.
    Returns the groups and notes (texts) on what is left out. UserError if the draws differ in their
    numbers of labels.
    """
    combined, families, notes = {}, {}, []
    for arm, group in groups.items():
        name = without_draw(arm)
        if name is None:
            combined[arm] = group
        else:
            families.setdefault(name, []).append(group)
    for name, family in families.items():
        draws, seeds = len(family), {}
        for run in (run for group in family for run in group):
            if run.labels != family[0][0].labels:
                raise UserError(
                    f"{run.arm}: went to {run.labels[-1]} labels, unlike {family[0][0].arm}; "
                    "the draws of one name need equal labels"
                )
            seeds.setdefault(run.seed, []).append(run)
        complete = [seeds[seed] for seed in sorted(seeds) if len(seeds[seed]) == draws]
        if len(complete) < len(seeds):
            listed = ", ".join(str(seed) for seed in sorted(seeds) if len(seeds[seed]) < draws)
            notes.append(f"Seeds without all {draws} draws of {name}, left out: {listed}.")
        if complete:
            best = f"{name}+best (of {draws} draws by test Dice: an oracle, cheating)"
            combined[f"{name}+draws (mean of {draws})"] = [mean_run(runs) for runs in complete]
            combined[best] = [best_run(runs) for runs in complete]
    if not combined:
        raise UserError(f"no seed has all draws of an arm: {' '.join(notes)}")
    return combined, notes


def mean_run(runs):
    """A Run with the mean of several of the same seed and labels, by metric and by image."""
    means = [metrics.mean(rows) for rows in zip(*(run.means for run in runs), strict=True)]
    dice = np.mean([run.dice for run in runs], axis=0)
    costs = None
    if have_costs(runs):
        costs = {
            name: np.mean([run.costs[name] for run in runs], axis=0).tolist()
            for name in Cost._fields
        }
    return replace(runs[0], means=means, dice=dice, costs=costs, combined=True)


def best_run(runs):
    """A Run that is, in each round, the one with the highest mean Dice of several.

    It has no costs: their sums need not ascend where it goes from one draw to another.
    """
    rounds = range(len(runs[0].labels))
    best = [max(runs, key=lambda run, r=r: run.means[r]["dice"]) for r in rounds]
    means = [run.means[r] for r, run in enumerate(best)]
    dice = np.stack([run.dice[:, r] for r, run in enumerate(best)], axis=1)
    return replace(runs[0], means=means, dice=dice, costs=None, combined=True)
