"""splits.py: arms over several splits of the same images, from their run folders."""

import numpy as np
import pytest
from conftest import call
from scipy import stats
from test_tables import write_run

from segmentation.analysis.screening import narrower, spreads
from segmentation.common.runfiles import read_csv

GAINS = {"same": (0.0, 0.001, -0.001, 0.0005, 0.0), "better": (0.05, 0.06, 0.04, 0.05, 0.055)}


@pytest.fixture
def folders(tmp_path):
    """Five splits, each with three arms and two seeds, whose gains over random are GAINS."""
    rng = np.random.default_rng(0)
    for split in range(5):
        for seed in (2 * split, 2 * split + 1):
            base = rng.uniform(0.4, 0.6)
            for arm, gain in (("random", 0), *((arm, GAINS[arm][split]) for arm in GAINS)):
                noise = 0.001 * (-1) ** seed * (arm != "random")
                dice = (base + gain + noise, base + 0.1 + gain + noise)
                write_run(tmp_path / f"split{split}" / "seg", arm, seed, dice, data=str(split))
    return [tmp_path / f"split{split}" / "seg" for split in range(5)]


def test_arms_are_compared_over_splits(folders, tmp_path, capsys):
    words = ["--runs", *folders, "--baseline", "random", "--margin", 1, "--out", tmp_path / "out"]
    call("splits", *words)
    text = (tmp_path / "out" / "splits.md").read_text()
    assert text in capsys.readouterr().out and "within ± 1 Dice points" in text
    compared, spread = text.split("The spread is", 1)[0].split("Differences are", 1)
    assert spread.count("| same |") == spread.count("| random |") == 2
    lines = [line.split(" | ") for line in compared.splitlines() if line.startswith("| ")]
    assert lines[0][1:4] == ["labels", "seeds", "splits"] and len(lines) == 2 + 3 * 2
    for line in lines[2:]:
        arm = line[0].removeprefix("| ")
        assert line[2:4] == ["10", "5"]
        if arm == "random":
            assert line[5] == "baseline"
            continue
        gains, error = GAINS[arm], np.std(GAINS[arm], ddof=1) * (1 / 5 + 1 / 4) ** 0.5
        half = stats.t.ppf(0.975, 4) * error
        ends = [100 * end for end in (np.mean(gains), np.mean(gains) - half, np.mean(gains) + half)]
        assert line[5] == "{:+.1f} [{:+.1f}, {:+.1f}]".format(*ends)
        p, equal = (float(cell.strip(" |<")) for cell in line[6:8])
        assert (p < 0.05, equal < 0.05) == ((True, False) if arm == "better" else (False, True))
    rows = read_csv(tmp_path / "out" / "splits.csv")
    assert len(rows) == 5 * 2 * 3 * 2 and {row["split"] for row in rows} == set("01234")


def test_arms_with_nothing_in_common_with_the_baseline_are_told(folders, tmp_path):
    """Another number of labels, or another seed: no difference, and not called the baseline."""
    for number, folder in enumerate(folders):
        write_run(folder, "full", 2 * number, (0.9,), labels=(1600,), data=str(number))
        write_run(folder, "late", 50 + number, (0.5, 0.6), data=str(number))
    call("splits", "--runs", *folders, "--baseline", "random", "--out", tmp_path / "out")
    lines = (tmp_path / "out" / "splits.md").read_text().splitlines()
    told = [line for line in lines if line.startswith(("| full", "| late")) and "[" not in line]
    assert [line.split(" | ")[5] for line in told[:3]] == ["nothing in common"] * 3


def test_the_share_of_test_images_widens_the_interval(folders, tmp_path):
    """Nadeau and Bengio's variance, 1 / splits + test images / pool images."""
    halves = []
    for share in (0.25, 1):
        out = tmp_path / f"out{share}"
        call("splits", "--runs", *folders, "--baseline", "random", "--tested", share, "--out", out)
        line = next(x for x in (out / "splits.md").read_text().splitlines() if "| better | 10" in x)
        low, high = line.split("[")[1].split("]")[0].split(", ")
        halves.append((float(high) - float(low)) / 2)
    assert halves[1] / halves[0] == pytest.approx((1.2 / 0.45) ** 0.5, rel=0.05)


def test_without_a_margin_there_is_no_test_of_equality(folders, tmp_path):
    call("splits", "--runs", *folders, "--baseline", "random", "--arms", "same", "--out", tmp_path)
    text = (tmp_path / "splits.md").read_text()
    assert "equal" not in text and "better" not in text and "| same |" in text


def test_what_is_refused(folders, tmp_path, refused):
    words = ["--baseline", "random", "--out", tmp_path / "out", "--runs"]
    assert "names a folder twice" in refused("splits", *words, folders[0], folders[0])
    line = refused("splits", "--baseline", "full", "--out", tmp_path / "out", "--runs", *folders)
    assert "no finished run of --baseline full" in line
    write_run(tmp_path / "other" / "seg", "random", 0, (0.5, 0.6), data="0")
    line = refused("splits", *words, folders[0], tmp_path / "other" / "seg")
    assert "is of the same split as" in line and str(folders[0]) in line
    assert not (tmp_path / "out" / "splits.md").exists()


def test_spread_within_splits():
    rng = np.random.default_rng(0)
    dice = {
        "random": rng.normal(0.7, 0.06, (5, 4)),
        "close": rng.normal(0.7, 0.01, (5, 4)) + np.arange(5)[:, None],  # splits may differ
        "alike": rng.normal(0.7, 0.06, (5, 4)),
    }
    rows = [
        {"rule": rule, "labels": 10, "split": split, "seed": seed, "dice": values[split, seed]}
        for rule, values in dice.items()
        for split, seed in np.ndindex(values.shape)
    ]
    random, close, alike = spreads(rows, "random")
    assert random.p is None and close.p < 0.01 < 0.1 < alike.p
    for one in (random, close, alike):
        assert one.sd == pytest.approx(dice[one.rule].var(axis=1, ddof=1).mean() ** 0.5)
    apart = {name: np.abs(x - np.median(x, 1, keepdims=True)) for name, x in dice.items()}
    apart = {name: np.sort(x, 1)[:, 1:].ravel() for name, x in apart.items()}
    raw = stats.ttest_ind(apart["close"], apart["random"], equal_var=False, alternative="less")
    assert close.p == pytest.approx(2 * raw.pvalue)
    one_seed = [row for row in rows if row["seed"] == 0]
    assert {(one.sd, one.p) for one in spreads(one_seed, "random")} == {(None, None)}
    more = [row for row in rows if row["rule"] == "close" or row["seed"] < 3]
    same = [row for row in rows if row["seed"] < 3]
    assert [one.p for one in spreads(more, "random")] == [one.p for one in spreads(same, "random")]
    copied = [{**row, "rule": "copy"} for row in rows if row["rule"] == "random"]
    assert spreads([*rows, *copied], "random")[:3] == [random, close, alike]  # not in the family


@pytest.mark.parametrize(("splits", "seeds"), [(10, 2), (5, 3), (5, 4), (5, 10)])
def test_equal_spreads_are_seldom_called_different(splits, seeds):
    """One of twenty tables; with Levene's distances as they are, one of eight with two seeds."""
    rng, below = np.random.default_rng(0), 0
    for _ in range(1000):
        own, other = (
            {split: dict(enumerate(values)) for split, values in enumerate(side)}
            for side in rng.normal(size=(2, splits, seeds))
        )
        below += narrower(own, other) < 0.05
    assert 0.02 <= below / 1000 <= 0.065


def test_spread_of_one_split_is_that_of_brown_and_forsythe():
    a, b = np.random.default_rng(1).normal(size=(2, 30))
    rows = [
        {"rule": rule, "labels": 5, "split": 0, "seed": seed, "dice": value}
        for rule, values in (("random", a), ("arm", 0.9 * b))
        for seed, value in enumerate(values)
    ]
    two_sided = stats.levene(a, 0.9 * b, center="median").pvalue  # equal n: the same t as Welch's
    p = spreads(rows, "random")[1].p
    assert min(p, 1 - p) == pytest.approx(two_sided / 2, rel=0.05)
