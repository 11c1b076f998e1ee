"""The probe: its regression by another library, its Dice by hand, the script from end to end."""

import numpy as np
import pytest
import torch
from conftest import call
from helpers_data import write_data
from scipy import stats
from sklearn.linear_model import Ridge

from segmentation.analysis.screening import over_splits, screened
from segmentation.common.precision import Precision
from segmentation.common.runfiles import read_csv
from segmentation.data.datafolder import open_data
from segmentation.data.images import Images
from segmentation.model import metrics, probe
from segmentation.model.encoders import PACKAGED
from segmentation.model.frozen import FrozenHead
from segmentation.model.probe import Cells


@pytest.fixture
def cells():
    """12 images of 4 x 4 cells of 8 x 8 pixels, whose share of lesion follows the features."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(12, 16, 6)).astype(np.float32)
    x[..., -1] = 1
    logits = x @ rng.normal(size=6) + rng.normal(size=(12, 16))
    return Cells(x, (1 / (1 + np.exp(-logits))).astype(np.float32))


def ridge(cells, places, strength):
    x, y = cells.x[places].reshape(-1, 6)[:, :-1], cells.shares[places].ravel()
    return Ridge(alpha=strength * len(places)).fit(x.astype(np.float64), y)


def test_a_solve_is_scikit_learns_ridge(cells):
    places = np.array([3, 0, 7])
    sums = probe.sums_of(cells)
    for strength in (0.01, 3.0):
        w = probe.solve(sums.xx[places].sum(0), sums.xy[places].sum(0), strength, 3)
        other = ridge(cells, places, strength)
        assert w == pytest.approx([*other.coef_, other.intercept_], abs=1e-5)


def test_the_strength_is_that_of_the_smallest_error_on_images_left_out(cells, monkeypatch):
    monkeypatch.setattr(probe, "STRENGTHS", (1e-4, 0.3, 2.0, 50.0))
    sums, chosen = probe.sums_of(cells), set()
    for seed in range(12):
        places = np.random.default_rng(seed).permutation(12)[:3]
        errors = []
        for strength in probe.STRENGTHS:
            squared = 0.0
            for held in places:
                model = ridge(cells, places[places != held], strength)
                squared += np.square(
                    model.predict(cells.x[held][:, :-1]) - cells.shares[held]
                ).sum()
            errors.append(squared)
        best = probe.STRENGTHS[int(np.argmin(errors))]
        chosen.add(best)
        other = ridge(cells, places, best)
        assert probe.fit(sums, places) == pytest.approx([*other.coef_, other.intercept_], abs=1e-4)
    assert len(chosen) > 1
    assert np.isfinite(probe.fit(sums, np.array([5]))).all()


def test_the_threshold_is_that_of_the_largest_dice_on_images_left_out(cells):
    shares = cells.shares ** np.linspace(0.5, 3, 12)[:, None]  # large in some, small in others
    cells = Cells(cells.x, shares)
    sums, chosen = probe.sums_of(cells), set()
    for seed in range(12):
        places = np.random.default_rng(seed).permutation(12)[:4]
        plain, shifted = probe.fit(sums, places), probe.fit(sums, places, cells)
        strength = next(
            s
            for s in probe.STRENGTHS
            if probe.solve(sums.xx[places].sum(0), sums.xy[places].sum(0), s, 4)
            == pytest.approx(plain, abs=1e-12)
        )
        means = []
        for threshold in probe.THRESHOLDS:
            found = []
            for held in places:
                model = ridge(cells, places[places != held], strength)
                w = np.array([*model.coef_, model.intercept_ + 0.5 - threshold])
                found.append(probe.dice(cells, np.array([held]), w[None])[0, 0])
            means.append(np.mean(found))
        best = probe.THRESHOLDS[int(np.argmax(means))]
        chosen.add(best)
        assert shifted - plain == pytest.approx([0] * 5 + [0.5 - best], abs=1e-6)
    assert len(chosen) > 2
    alone = np.array([5])
    assert np.array_equal(probe.fit(sums, alone, cells), probe.fit(sums, alone))


def test_dice_is_that_of_the_blocks_at_full_resolution():
    rng = np.random.default_rng(1)
    masks = (rng.random((5, 32, 32)) < rng.random((5, 1, 1))).astype(np.uint8)
    masks[4] = 0
    shares = masks.reshape(5, 4, 8, 4, 8).mean((2, 4)).reshape(5, 16).astype(np.float32)
    x = rng.normal(size=(5, 16, 3)).astype(np.float32)
    x[4] = -1  # nothing is predicted there
    weights = np.abs(rng.normal(size=(2, 3)))
    found = probe.dice(Cells(x, shares), np.arange(5), weights)
    for row, w in zip(found, weights, strict=True):
        blocks = (x @ w.astype(np.float32) > 0.5).reshape(5, 4, 4)
        predicted = blocks.repeat(8, axis=1).repeat(8, axis=2)
        truth = metrics.dice(metrics.confusion(predicted, masks > 0))
        assert row == pytest.approx(truth)
    assert found[0, 4] == 1  # both are empty


def test_principal_components_are_of_unit_variance():
    rng = np.random.default_rng(2)
    maps = rng.normal(size=(20, 40 + 3, 4, 4)).astype(np.float32) * np.arange(1, 44)[:, None, None]
    basis = probe.basis_of(maps)
    flat = maps[:, :-3].transpose(0, 2, 3, 1).reshape(-1, 40)
    components = (flat - basis.mean) @ basis.directions
    assert components.shape[1] == probe.COMPONENTS
    assert np.cov(components.T) == pytest.approx(np.eye(32), abs=1e-6)


def test_masks_lie_on_the_cells_where_images_are_padded(tmp_path):
    """48 pixels become 64, of which the cells of the first 48 are 6 of 8."""
    rng, ids = np.random.default_rng(4), ["a", "b", "c"]
    images = rng.integers(0, 256, (3, 48, 48, 1), dtype=np.uint8)
    masks = rng.integers(0, 2, (3, 48, 48), dtype=np.uint8)
    data = open_data(write_data(tmp_path / "data", images, masks, ids, ids[:2], ids[2:]))
    torch.manual_seed(0)
    given = FrozenHead(1, PACKAGED), Images(data, ids, "cpu"), masks
    cells = probe.cells_of(*given, 2, Precision(torch.device("cpu")), lambda count: None)
    assert cells.x.shape[:2] == cells.shares.shape == (3, 64)
    blocks = masks.reshape(3, 6, 8, 6, 8).mean((2, 4))
    assert cells.shares.reshape(3, 8, 8)[:, :6, :6] == pytest.approx(blocks)
    beside = masks[:, :, -1].reshape(3, 6, 8).mean(2)  # the last column goes on
    assert cells.shares.reshape(3, 8, 8)[:, :6, 7] == pytest.approx(beside)


def test_gains_are_over_splits():
    rng = np.random.default_rng(3)
    parts = [rng.normal(0.02, 0.01, 10) for _ in range(5)]
    means = [part.mean() for part in parts]
    error = np.std(means, ddof=1) * (1 / 5 + 1 / 4) ** 0.5
    found = over_splits(parts)
    value, _, high = found.interval
    assert value == pytest.approx(np.mean(means))
    assert high - value == pytest.approx(stats.t.ppf(0.975, 4) * error)
    assert found.p == pytest.approx(2 * stats.t.sf(np.mean(means) / error, 4))
    low, up = (np.mean(means) - end for end in (-0.03, 0.03))  # two one-sided tests
    each = stats.t.sf(low / error, 4), stats.t.cdf(up / error, 4)
    assert found.p_equal(0.03) == pytest.approx(max(each))
    alone = over_splits(parts[:1])
    assert alone.interval[1:] == (None, None) and alone.p is alone.p_equal(1) is None


def test_rows_are_paired_by_seed():
    rows = [
        {"rule": rule, "features": features, "labels": 10, "seed": seed, "split": seed % 2}
        | {"dice": 0.5 + 0.1 * seed + (rule != "random") * (0.02 + 0.01 * (seed % 2))}
        for seed in range(4)
        for rule, features in (("random", ""), ("saal", "a"), ("kmeans", "a"))
    ]
    first, *others = screened(rows)
    assert first.rule == "random" and first.gain is None and first.seeds == 4
    assert {one.rule for one in others} == {"saal", "kmeans"}
    for one in others:
        assert one.gain.value == pytest.approx(0.025)
        assert one.p == pytest.approx(min(1, 2 * over_splits([[0.02], [0.03]]).p))


def test_the_script(data, clusters, tmp_path, refused, capsys):
    out, pool = tmp_path / "probe", tmp_path / "all"
    call("preprocess", "--demo", 40, "--size", 64, "--no-gray", "--test-count", 0, "--out", pool)
    seen = tmp_path / "clusters"
    words = ["--data", pool, "--features", "thumbnail", "--out", seen, "--k", 3, "--budget", 4]
    call("cluster", *words)
    words = ["--data", pool, "--out", out, "--encoder", "tf_efficientnet_lite0"]
    words += ["--encoder-weights", "package", "--device", "cpu", "--budgets", 3, 6, "--splits", 2]
    words += ["--rules", "random", "saal", "kmeans", "pt4al", "patterns"]
    capsys.readouterr()
    call("probe", *words, "--seeds", 2, "--features", f"small={seen}")
    printed = capsys.readouterr().out
    for rule, array in (("pt4al", "pretext_loss"), ("patterns", "patterns")):
        assert f"small: without {rule}, as it has no {array}; cluster.py makes it with" in printed
    rows = read_csv(out / "probe.csv")
    assert len(rows) == 2 * 2 * 3  # pt4al and patterns have nothing to go by
    assert {(row["rule"], row["features"]) for row in rows} == {
        ("random", ""),
        ("saal", "small"),
        ("kmeans", "small"),
    }
    assert all(0 < float(row["dice"]) < 1 for row in rows)
    before = (out / "probe.csv").read_text()
    call("probe", *words, "--seeds", 3, "--features", f"small={seen}")
    after = (out / "probe.csv").read_text()
    assert after.startswith(before) and len(read_csv(out / "probe.csv")) == 18
    assert "baseline" in (out / "probe.md").read_text()

    words[words.index(out)] = tmp_path / "fitted"
    call("probe", *words, "--seeds", 2, "--features", f"small={seen}", "--fit-threshold")
    fitted = read_csv(tmp_path / "fitted" / "probe.csv")
    assert len(fitted) == 12 and [row["dice"] for row in fitted] != [row["dice"] for row in rows]
    assert [row["area"] for row in fitted] == [row["area"] for row in rows]  # the same choices

    for name in ("budgets", "k"):
        line = refused("probe", *words, "--features", f"small={seen}", f"--{name}", 33)
        assert f"--{name} 33: the pool of a split of {pool} has only 32 images" in line
    plain = ["--rules", "random", "first", "--k", 33, "--seeds", 1, "--out", tmp_path / "plain"]
    call("probe", *words, "--features", f"small={seen}", *plain)  # no rule uses clusters

    few = refused("probe", *words, "--seeds", 1, "--features", f"few={clusters}")
    assert "has no image" in few and "--test-count 0" in few
