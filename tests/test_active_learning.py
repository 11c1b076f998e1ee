"""The loop by its budget arithmetic, its files and its refusals."""

import itertools
import json
import re
import shutil

import numpy as np
import pytest
import torch
from conftest import LOOP, call
from helpers_data import hash_again

from segmentation.common.precision import Precision
from segmentation.common.runfiles import read_csv, read_npz, sha256_file, write_json, write_npz
from segmentation.data.datafolder import open_data
from segmentation.data.images import load_tensor
from segmentation.model import engine, inference, metrics
from segmentation.model.selftraining import own_masks
from segmentation.model.unet import UNet, load_model, save_model
from segmentation.rounds import learner
from segmentation.rounds.inputs import hold_out
from segmentation.rounds.learner import fold_parts
from segmentation.selection import query

ARMS = {
    "random": ["--cold-start", "random", "--query", "random"],
    "saal": ["--cold-start", "saal", "--query", "saal", "--init", "all"],
    "ceal": ["--cold-start", "saal", "--query", "ceal", "--init", "encoder"],
    "entropy": ["--cold-start", "random", "--query", "entropy", "--init", "all"],
}
PSEUDO = ["--ceal-pseudo-from", 1, "--ceal-pseudo", 3, "--ceal-pseudo-more", 2]


@pytest.fixture(scope="module")
def run(data, weights, clusters, tmp_path_factory):
    """run(arm, *options) -> the run's folder; each set of options is run once."""
    done = {}

    def make(arm, *options):
        key = (arm, *map(str, options))
        if key not in done:
            done[key] = tmp_path_factory.mktemp(arm) / "seed"
            call("active_learning", *words(done[key], arm, *options))
        return done[key]

    def words(out, arm, *options):
        starts = "--init" in (*ARMS[arm], *options)
        files = ["--weights", weights / "best.pt"] * starts + ["--clusters", clusters]
        return ["--data", data, "--out", out, *LOOP, *files, *ARMS[arm], *options]

    make.words = words
    return make


def state_of(folder):
    return json.loads((folder / "state.json").read_text())


def labelled(folder, last=99):
    return [entry["id"] for entry in state_of(folder)["labelled"] if entry["round"] <= last]


@pytest.mark.parametrize("arm", ARMS)
def test_budget_arithmetic(data, run, arm):
    folder, opened = run(arm, *PSEUDO), open_data(data)
    state = state_of(folder)
    assert [entry["labels"] for entry in state["rounds"]] == [12, 17, 22]
    ids = labelled(folder)
    assert len(ids) == len(set(ids)) == 22 and set(ids) <= set(opened.pool)
    assert [entry["round"] for entry in state["labelled"]] == [0] * 12 + [1] * 5 + [2] * 5
    assert not set(ids) & set(opened.test)
    for number, entry in enumerate(state["rounds"]):
        assert not set(entry["pseudo"]) & set(labelled(folder, number))
        count = {0: 0, 1: 3, 2: 5}[number] if arm == "ceal" else 0
        assert len(entry["pseudo"]) <= count


@pytest.mark.parametrize("arm", ARMS)
def test_files_of_a_round(data, run, arm):
    folder, opened = run(arm, *PSEUDO), open_data(data)
    for number in range(3):
        round_folder = folder / f"round_{number:02d}"
        rows = read_csv(round_folder / "metrics.csv")
        assert [row["id"] for row in rows] == opened.test
        assert tuple(rows[0]) == ("id", *metrics.NAMES, "confidence")
        assert len(read_csv(round_folder / "log.csv")) == (3 if number == 0 else 2)
        if number and arm != "random":
            before = set(labelled(folder, number - 1))
            unlabelled = [name for name in opened.pool if name not in before]
            scored = read_csv(round_folder / "scores.csv")
            assert [row["id"] for row in scored] == unlabelled
            value = {row["id"]: float(row["score"]) for row in scored}
            for entry in state_of(folder)["labelled"]:
                if entry["round"] == number:
                    assert entry["score"] == value[entry["id"]]
    assert (folder / "round_02" / "weights.pt").exists()
    assert not (folder / "round_01" / "weights.pt").exists()


def test_entropy_asks_for_the_highest_scores(run):
    folder = run("entropy", *PSEUDO)
    for number in (1, 2):
        rows = read_csv(folder / f"round_{number:02d}" / "scores.csv")
        best = sorted(rows, key=lambda row: -float(row["score"]))[:5]
        asked = [e["id"] for e in state_of(folder)["labelled"] if e["round"] == number]
        assert asked == [row["id"] for row in best]


def test_cold_start_of_saal_is_the_selection_file(run, clusters):
    selection = json.loads((clusters / "selection.json").read_text())["selection"]
    assert labelled(run("saal", *PSEUDO), 0) == [entry["id"] for entry in selection]
    assert labelled(run("ceal", *PSEUDO), 0) == [entry["id"] for entry in selection]


def test_each_random_seed_draws_its_own_set(run):
    sets = {tuple(sorted(labelled(run("random", *PSEUDO, "--seed", s), 0))) for s in (0, 1, 2)}
    assert len(sets) == 3


def test_arms_of_one_seed_share_what_they_can(run):
    """Same seed, same cold start, same first weights: round 0 is the same whatever the query."""
    short = ["--rounds", 0]
    one = run("saal", *short) / "round_00" / "metrics.csv"
    two = run("saal", *short, "--query", "random") / "round_00" / "metrics.csv"
    assert one.read_bytes() == two.read_bytes()


def test_metrics_are_those_of_the_saved_weights(data, run):
    folder, opened = run("random", *PSEUDO), open_data(data)
    model = load_model(folder / "round_02" / "weights.pt")
    images = load_tensor(opened, opened.test).float() / 255
    with torch.no_grad():
        predicted = (model(images)[:, 0].sigmoid() > 0.5).numpy()
    expected = metrics.per_image(predicted, opened.load_masks(opened.test))
    rows = read_csv(folder / "round_02" / "metrics.csv")
    assert [float(row["dice"]) for row in rows] == [row["dice"] for row in expected]


def test_pseudo_labels_serve_one_round_and_stay_unlabelled(run):
    folder = run("ceal", *PSEUDO)
    rounds = state_of(folder)["rounds"]
    assert rounds[1]["pseudo"]
    scored = {row["id"] for row in read_csv(folder / "round_02" / "scores.csv")}
    assert set(rounds[1]["pseudo"]) <= scored
    without = run("ceal")
    assert all(not entry["pseudo"] for entry in state_of(without)["rounds"])
    assert labelled(without, 1) == labelled(folder, 1)  # the same scores in round 1


def test_ceal_is_the_rule_applied_to_its_scores(data, run):
    folder = run("ceal", *PSEUDO)
    rows = read_csv(folder / "round_01" / "scores.csv")
    scores = np.array([float(row["score"]) for row in rows])
    entries = [e for e in state_of(folder)["labelled"] if e["round"] == 1]
    sources = [entry["source"] for entry in entries]
    settings = query.CealSettings(pseudo_from=1, pseudo=3, pseudo_more=2)
    wanted = query.largest_remainder(
        [settings.no_detection, settings.uncertain, settings.random], 5
    )
    least = [e["score"] for e in entries if e["source"] == "ceal no detection"]
    assert sorted(least) == sorted(scores)[: wanted[0]]
    assert len(sources) == 5 and {s.split()[0] for s in sources} == {"ceal"}


def test_all_of_the_pool(data, run):
    folder = run("random", "--initial", "all", "--rounds", 0)
    assert sorted(labelled(folder)) == open_data(data).pool


def test_from_scratch_begins_anew(run):
    """Round 1 from scratch trains for --epochs, and equals a run that had its labels at once."""
    folder = run("random", "--from-scratch", "--rounds", 1)
    assert len(read_csv(folder / "round_01" / "log.csv")) == 3
    assert (folder / "round_00" / "metrics.csv").read_bytes() == (
        run("random", *PSEUDO) / "round_00" / "metrics.csv"
    ).read_bytes()


def test_keep_weights(run):
    folder = run("random", "--keep-weights", "--rounds", 1)
    assert (folder / "round_00" / "weights.pt").exists()


def test_a_finished_run_is_skipped(run, capsys):
    folder = run("random", *PSEUDO)
    before = (folder / "state.json").read_bytes()
    call("active_learning", *run.words(folder, "random", *PSEUDO))
    assert "finished already" in capsys.readouterr().out
    assert (folder / "state.json").read_bytes() == before


def results_of(folder):
    """What a run leaves, but for its arguments and the seconds in its logs."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    files = [path for path in files if path.name not in ("args.json", "env.json", "log.csv")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize("arm", ["ceal", "entropy"])
def test_where_the_pool_is_held_does_not_matter(run, arm):
    host, device = (run(arm, *PSEUDO, "--pool-on", place) for place in ("host", "device"))
    assert results_of(host) == results_of(device)


class Stopped(Exception):
    pass


@pytest.mark.parametrize(("before", "after"), [("host", "device"), ("device", "host")])
def test_a_run_goes_on_with_its_pool_held_elsewhere(run, tmp_path, monkeypatch, before, after):
    def train(*args, stream, **settings):
        if stream[1:] == ("round", 1):
            raise Stopped
        return whole_train(*args, stream=stream, **settings)

    whole_train = engine.train
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(engine, "train", train)
        call("active_learning", *run.words(tmp_path / "run", "ceal", *PSEUDO, "--pool-on", before))
    assert len(state_of(tmp_path / "run")["rounds"]) == 1
    call("active_learning", *run.words(tmp_path / "run", "ceal", *PSEUDO, "--pool-on", after))
    assert results_of(tmp_path / "run") == results_of(run("ceal", *PSEUDO))


def test_another_number_format_in_the_same_folder_is_refused(run, refused):
    folder = run("random", *PSEUDO)
    line = refused("active_learning", *run.words(folder, "random", *PSEUDO, "--amp", "bf16"))
    assert "made with --amp auto, not bf16" in line


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--initial", 45], "a budget of 55 labels is larger than the pool of 48"),
        (["--budgets", 10, 49], "a budget of 49 labels is larger than the pool of 48"),
        (["--budgets", 10, 10], "--budgets 10 10: give increasing numbers"),
        (["--holdout", 48], "--holdout 48: the pool has 48"),
        (["--training-masks", "nowhere"], "nowhere: no such data folder"),
        (["--recipe", "weak"], "--recipe"),
        (["--query", "dsal"], "--query dsal needs --heads"),
        (["--initial", "many"], "--initial many"),
        (["--folds", 13], "--folds 13: give 0, or 2 to 12, the labels of round 0"),
        (["--folds", 1], "--folds 1: give 0, or 2 to 12"),
        (["--initial", 0], "--initial 0"),
        (["--query", "best"], "--query"),
        (["--queri", "random"], "--queri"),
        (["--width", 8], "best.pt: weights of width 4, but this network has 8"),
        (["--weights", "none.pt"], "none.pt: not found"),
        (["--clusters", "nowhere"], "nowhere/clusters.npz: not found"),
        (["--data", "nowhere"], "nowhere: no such data folder"),
        (["--rounds", -1], "--rounds"),
        (["--device", "tpu9"], "--device tpu9"),
        (["--amp", "fp8"], "--amp"),
        (["--compile", "fast"], "--compile"),
        (["--pool-on", "disk"], "--pool-on"),
    ],
)
def test_bad_input(run, tmp_path, refused, options, word):
    assert word in refused("active_learning", *run.words(tmp_path / "out", "saal", *options))
    assert not (tmp_path / "out").exists()


def test_what_an_option_needs(data, tmp_path, refused):
    words = ["--data", data, "--out", tmp_path / "out", *LOOP]
    assert "needs --weights" in refused("active_learning", *words, "--init", "all")
    assert "strategy saal needs --clusters" in refused("active_learning", *words, "--query", "saal")


def test_clusters_of_other_weights_are_refused(run, tmp_path, refused):
    torch.manual_seed(1)
    save_model(tmp_path / "best.pt", UNet(width=4))
    words = run.words(tmp_path / "out", "saal", "--weights", tmp_path / "best.pt")
    assert "features.npz: made with other weights than" in refused("active_learning", *words)


def test_clusters_and_features_must_belong_together(run, clusters, tmp_path, refused):
    copy = shutil.copytree(clusters, tmp_path / "clusters")
    content = read_npz(copy / "features.npz")
    write_npz(copy / "features.npz", **{**content, "features": content["features"] + 1})
    line = refused("active_learning", *run.words(tmp_path / "out", "saal", "--clusters", copy))
    assert "clusters.npz: made from other features than features.npz" in line


def test_clusters_are_not_read_where_no_strategy_sees_features(run, tmp_path):
    call(
        "active_learning",
        *run.words(tmp_path / "out", "random", "--clusters", "nowhere", "--rounds", 0),
    )


def test_features_of_no_pretraining_go_with_any_weights(run, clusters, tmp_path):
    copy = shutil.copytree(clusters, tmp_path / "clusters")
    content = read_npz(copy / "features.npz")
    write_npz(copy / "features.npz", **{**content, "encoder_sha256": ""})
    chosen = read_npz(copy / "clusters.npz")
    digest = sha256_file(copy / "features.npz")
    write_npz(copy / "clusters.npz", **{**chosen, "features_sha256": digest})
    out = tmp_path / "out"
    call("active_learning", *run.words(out, "saal", "--clusters", copy, "--rounds", 0))
    assert labelled(out) == labelled(run("saal", *PSEUDO), 0)


BUDGETS = ["--budgets", 6, 9, 20]
STRONG = ["--recipe", "strong", "--batch", 4, "--epochs", 2, "--min-steps", 8]


def test_budgets(run):
    state = state_of(run("random", *BUDGETS))
    assert [entry["labels"] for entry in state["rounds"]] == [6, 9, 20]
    counts = np.bincount([entry["round"] for entry in state["labelled"]])
    assert counts.tolist() == [6, 3, 11] and state["rounds_planned"] == 2


def test_the_strong_recipe_trains_every_budget_anew(run):
    folder = run("random", *BUDGETS, *STRONG)
    epochs = [len(read_csv(folder / f"round_{r:02d}" / "log.csv")) for r in range(3)]
    assert epochs == [4, 3, 2]  # 8 steps of 2, 3 and 5 batches
    args = json.loads((folder / "args.json").read_text())["args"]
    assert args["from_scratch"] and args["optimizer"] == "adamw" and args["augment"] == "all"


def test_from_scratch_a_round_depends_on_its_labels_alone(run):
    """The last round is that of a run which had other rounds before, as the labels are the same."""
    one = run("saal", "--budgets", 8, 16, *STRONG)
    two = run("saal", "--budgets", 8, 12, 16, *STRONG)
    assert sorted(labelled(one)) == sorted(labelled(two))


def test_another_draw_changes_the_draw_alone(run):
    one, other = run("random", "--rounds", 0), run("random", "--rounds", 0, "--draw", 1)
    assert len(set(labelled(one)) & set(labelled(other))) < 12
    everything = ["--initial", "all", "--rounds", 0]
    one, other = run("random", *everything), run("random", *everything, "--draw", 1)
    assert sorted(labelled(one)) == sorted(labelled(other))


def test_holdout_measures_on_the_pool(data, run):
    folder, opened = run("random", "--holdout", 10, "--rounds", 1), open_data(data)
    measured = [row["id"] for row in read_csv(folder / "round_01" / "metrics.csv")]
    assert len(measured) == 10 and set(measured) <= set(opened.pool)
    assert not set(measured) & set(labelled(folder))
    other = run("random", "--holdout", 10, "--rounds", 0, "--seed", 5)
    assert [row["id"] for row in read_csv(other / "round_00" / "metrics.csv")] == measured


def test_linked_images_are_held_out_together():
    pool = [f"{group}{number}" for group in "abcd" for number in range(5)]
    linked = [tuple(name for name in pool if name[0] == group) for group in "abcd"]
    rest, held = hold_out(pool, 10, linked)
    assert len(held) == 10 and not {name[0] for name in rest} & {name[0] for name in held}
    assert sorted(rest + held) == pool
    rest, held = hold_out(pool, 4, linked)
    assert (rest, held) == (pool, [])  # no group has four or fewer


def test_training_masks_of_another_folder(data, run, tmp_path):
    """The oracle answers from there; what is measured is measured on the data's own masks."""
    copy = shutil.copytree(data, tmp_path / "data")
    masks = np.load(copy / "masks.npy")
    np.save(copy / "masks.npy", np.zeros_like(masks))
    hash_again(copy)
    one = run("random", "--rounds", 0)
    other = run("random", "--rounds", 0, "--training-masks", copy)
    assert labelled(one) == labelled(other) and losses(one) != losses(other)
    rows = read_csv(other / "round_00" / "metrics.csv")  # against empty masks, empty would be right
    assert np.mean([float(row["dice"]) for row in rows]) < 0.5


def losses(folder):
    """The losses of round 0, as they are written."""
    return [row["loss"] for row in read_csv(folder / "round_00" / "log.csv")]


def test_the_released_scale_is_another_training(run):
    one, other = (run("random", "--rounds", 0, *more) for more in ([], ["--released-scale"]))
    assert losses(one) != losses(other)
    assert load_model(other / "round_00" / "weights.pt").scale == 255


def test_cross_validation_within_the_labels(run, data, trainings):
    """Each labelled image is measured once, by a model trained on the other folds alone."""
    plain = run("random", "--rounds", 0)
    trainings.clear()
    folder = run("random", "--rounds", 0, "--folds", 3)
    rows, ids, opened = (
        read_csv(folder / "round_00" / "folds.csv"),
        labelled(folder),
        open_data(data),
    )
    assert sorted(row["id"] for row in rows) == sorted(ids) and len(ids) == 12
    assert [row["fold"] for row in rows] == ["0"] * 4 + ["1"] * 4 + ["2"] * 4
    assert len(trainings) == 4  # the whole, and three folds
    for fold, (_, model, images, masks) in enumerate(trainings[1:]):
        held = [row for row in rows if row["fold"] == str(fold)]
        rest = [name for name in ids if name not in {row["id"] for row in held}]
        np.testing.assert_array_equal(masks, opened.load_masks(rest))
        assert len(images) == 8
        held_ids = [row["id"] for row in held]
        predicted = inference.segment(model, load_tensor(opened, held_ids), 4, "cpu")
        expected = metrics.per_image(predicted, opened.load_masks(held_ids))
        assert [float(row["dice"]) for row in held] == [row["dice"] for row in expected]
    for name in ("metrics.csv", "weights.pt"):  # the round itself is as without
        one, other = (path / "round_00" / name for path in (plain, folder))
        assert one.read_bytes() == other.read_bytes()


def test_mean_teacher(run):
    one, other = (run("random", "--rounds", 0, *more) for more in ([], ["--mean-teacher"]))
    assert labelled(one) == labelled(other) and losses(one) != losses(other)
    weights = [
        load_model(folder / "round_00" / "weights.pt").head.weight for folder in (one, other)
    ]
    assert not torch.equal(*weights)


@pytest.fixture
def trainings(monkeypatch):
    """A list, to which every training adds (weights before it, model, images, masks)."""
    seen, train = [], engine.train

    def watched(model, images, masks, **settings):
        before = {name: value.clone() for name, value in model.state_dict().items()}
        log = train(model, images, masks, **settings)
        seen.append((before, model, images.clone(), masks.numpy()))
        return log

    monkeypatch.setattr(engine, "train", watched)
    return seen


def test_self_training(run, data, trainings):
    """The student sees the whole pool: true masks where labelled, else the first model's own."""
    folder = run("random", "--rounds", 0, "--self-train")
    opened, chosen = open_data(data), labelled(folder)
    (first, model, images, masks), (start, student, pool_images, pool_masks) = trainings
    assert len(images) == len(masks) == 12
    np.testing.assert_array_equal(masks, opened.load_masks(chosen))
    assert all(torch.equal(first[name], start[name]) for name in first)  # both from the first
    rest = [name for name in opened.pool if name not in chosen]
    ids = chosen + sorted(rest)
    np.testing.assert_array_equal(pool_images.permute(0, 2, 3, 1).numpy(), opened.load_images(ids))
    np.testing.assert_array_equal(pool_masks[:12], masks)
    own = own_masks(model, pool_images[12:], 4, Precision(torch.device("cpu")))
    np.testing.assert_array_equal(pool_masks[12:], own)
    saved = load_model(folder / "round_00" / "weights.pt")
    assert torch.equal(saved.head.weight, student.head.weight)
    log = read_csv(folder / "round_00" / "log.csv")
    assert [int(row["epoch"]) for row in log] == list(range(len(log))) and len(log) == 6


def test_self_training_with_all_labels_is_training(run):
    options = ["--initial", "all", "--rounds", 0]
    one, other = (run("random", *options, *more) for more in ([], ["--self-train"]))
    assert losses(one) == losses(other)


def test_dsal(run):
    folder = run("random", "--query", "dsal", "--heads", "--rounds", 2)
    state = state_of(folder)
    assert [entry["labels"] for entry in state["rounds"]] == [12, 17, 22]
    assert load_model(folder / "round_02" / "weights.pt").heads


def test_another_setting_in_the_same_folder_is_refused(run, refused):
    folder = run("random", *PSEUDO)
    line = refused("active_learning", *run.words(folder, "random", *PSEUDO, "--lr", 0.1))
    assert "made with --lr 0.003, not 0.1" in line


def test_a_folder_with_options_that_are_gone(run, refused, capsys):
    """It goes on if they did nothing."""
    folder = run("random", *PSEUDO)
    record = json.loads((folder / "args.json").read_text())
    for mix in ("none", "cutmix"):
        record["args"] |= {"mix": mix, "teachers": 1, "constancy": False}
        (folder / "args.json").write_text(json.dumps(record))
        words = run.words(folder, "random", *PSEUDO)
        if mix == "none":
            call("active_learning", *words)
            assert "finished already" in capsys.readouterr().out
        else:
            assert "made with --mix cutmix, not none" in refused("active_learning", *words)


def test_images_without_masks_are_not_asked_for_but_learned_from(tmp_path, capsys, trainings):
    call("preprocess", "--demo", 20, "--size", 32, "--out", tmp_path / "data")
    manifest = json.loads((tmp_path / "data" / "manifest.json").read_text())
    splits = json.loads((tmp_path / "data" / "splits.json").read_text())
    lost = splits["pool"][0]
    for row in manifest["rows"]:
        if row["id"] == lost:
            row["mask"] = None
    write_json(tmp_path / "data" / "manifest.json", manifest)
    options = [
        "--width",
        "2",
        "--initial",
        "all",
        "--rounds",
        "0",
        "--epochs",
        "1",
        "--device",
        "cpu",
    ]
    call("active_learning", "--data", tmp_path / "data", "--out", tmp_path / "out", *options)
    assert "1 pool images have no mask" in capsys.readouterr().out
    assert lost not in labelled(tmp_path / "out") and len(labelled(tmp_path / "out")) == 15
    trainings.clear()
    out = tmp_path / "self"
    call("active_learning", "--data", tmp_path / "data", "--out", out, *options, "--self-train")
    taught = [images for _, _, images, _ in trainings]
    assert labelled(out) == labelled(tmp_path / "out") and [len(x) for x in taught] == [15, 16]
    unasked = open_data(tmp_path / "data").load_images([lost]).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(taught[1][15:], unasked)


# A person as the oracle ------------------------------------------------------------------------


def labels_file(path, rounds):
    """A file for --labelled; `rounds` are lists of ids."""
    path.write_text(
        "id,round\n" + "".join(f"{name},{n}\n" for n, ids in enumerate(rounds) for name in ids)
    )
    return path


@pytest.mark.parametrize("query", ["entropy", "kmeans"])
def test_a_person_who_answers_like_the_oracle_gets_the_same_models(run, data, tmp_path, query):
    """Suggestions and masks, round by round, are those of a run that asks the oracle."""
    common = ["--cold-start", "kmeans", "--query", query, "--from-scratch"]
    simulated = run("saal", *common, "--budgets", 6, 9, 11)
    out, rounds = tmp_path / "person", []
    for number, count in enumerate((6, 3, 2, 0)):
        words = run.words(out, "saal", *common, "--suggest", count, "--keep-weights")
        call("active_learning", *words, "--labelled", labels_file(tmp_path / "l.csv", rounds))
        if count:
            rows = read_csv(out / f"round_{number:02d}" / "suggestion.csv")
            rounds.append([row["id"] for row in rows])
    assert [name for ids in rounds for name in ids] == labelled(simulated)
    for name in ("cost.csv", "metrics.csv", "weights.pt"):
        same = [(folder / "round_02" / name).read_bytes() for folder in (simulated, out)]
        assert same[0] == same[1]
    state = state_of(out)
    assert [entry["labels"] for entry in state["rounds"]] == [6, 9, 11]
    assert state["rounds_planned"] == 2


def test_later_rounds_of_a_person_may_have_other_steps(run, data, tmp_path, refused):
    """Also where a part of the round has been trained with those of before."""
    ids = open_data(data).pool[:10]
    common = ["--recipe", "strong", "--self-train", "--folds", 2, "--keep-weights"]
    labels = [labels_file(tmp_path / f"{n}.csv", [ids[:6], ids[6:]][:n]) for n in (1, 2)]
    ways = {"once": (labels[0],), "more": (labels[0], labels[1])}
    for name, files in ways.items():
        for steps, path in zip((4, 8), files, strict=False):
            words = run.words(tmp_path / name, "random", *common, "--labelled", path)
            call("active_learning", *words, "--steps", steps)
    assert [entry["steps"] for entry in state_of(tmp_path / "more")["rounds"]] == [4, 8]
    first = [(tmp_path / name / "round_00" / "weights.pt").read_bytes() for name in ways]
    assert first[0] == first[1]
    words = run.words(tmp_path / "oracle", "random", *common, "--budgets", 6)
    call("active_learning", *words, "--steps", 4)
    assert "--steps 4, not 8" in refused("active_learning", *words, "--steps", 8)


def test_the_next_images_need_no_masks(run, data, tmp_path):
    """All images without a mask can be suggested; what is labelled must have one."""
    copy = shutil.copytree(data, tmp_path / "data")
    manifest = json.loads((copy / "manifest.json").read_text())
    pool = open_data(data).pool
    kept = pool[:4]
    for row in manifest["rows"]:
        if row["id"] in pool and row["id"] not in kept:
            row["mask"] = row["mask_sha256"] = None
    write_json(copy / "manifest.json", manifest)
    words = ["--data", copy, "--out", tmp_path / "run", *LOOP, "--suggest", 43]
    path = labels_file(tmp_path / "l.csv", [kept])
    more = [pool[9], pool[9], kept[0]]  # asked for: twice, not labelled; and labelled after all
    path.write_text(path.read_text() + "".join(f"{name},\n" for name in more))
    call("active_learning", *words, "--labelled", path)
    rows = read_csv(tmp_path / "run" / "round_01" / "suggestion.csv")
    assert sorted([*kept, pool[9], *(row["id"] for row in rows)]) == pool


def test_cross_validation_needs_no_test_images(run, data, tmp_path):
    copy = shutil.copytree(data, tmp_path / "data")
    splits = json.loads((copy / "splits.json").read_text())
    write_json(copy / "splits.json", {**splits, "test": []})
    given = labels_file(tmp_path / "l.csv", [open_data(data).pool[:6]])
    words = ["--data", copy, "--out", tmp_path / "run", *LOOP, "--labelled", given, "--folds", 3]
    call("active_learning", *words)
    folder = tmp_path / "run" / "round_00"
    assert len(read_csv(folder / "folds.csv")) == 6 and not (folder / "metrics.csv").exists()


def test_what_a_list_of_labels_must_be(data, tmp_path, refused):
    opened, out = open_data(data), tmp_path / "run"
    one, two, three = opened.pool[:3]
    path = tmp_path / "l.csv"
    words = ["--data", data, "--out", out, *LOOP, "--labelled", path]
    for rounds, reason in (
        ([[one, two, one]], "line 4: .* stands there twice"),
        ([[opened.test[0]]], "is no image of the pool with a mask"),
        ([[one], [], [two]], "line 3 is not an id and a round after"),
    ):
        labels_file(path, rounds)
        assert re.search(reason, refused("active_learning", *words))
    assert "leave out --budgets" in refused("active_learning", *words, "--budgets", 4)
    assert "--suggest needs --labelled" in refused(
        "active_learning", "--data", data, "--out", out, "--suggest", 2
    )
    labels_file(path, [[one, two]])
    assert "has only 46 images of the pool" in refused("active_learning", *words, "--suggest", 47)
    assert not out.exists()
    call("active_learning", *words)
    labels_file(path, [[one, three]])
    assert "has other ids in the first 1 rounds" in refused("active_learning", *words)


@pytest.mark.parametrize("stop", [("student",), ("fold", 1), ("fold", 2, "student")])
def test_models_that_are_trained_are_not_trained_again(run, tmp_path, monkeypatch, trainings, stop):
    """A round of several models that was interrupted goes on with the next of them."""
    options = ["--rounds", 0, "--self-train", "--folds", 3]
    whole = results_of(run("random", *options))

    def train(*args, stream, **settings):
        if stream[3:] == stop:
            raise Stopped
        return watched(*args, stream=stream, **settings)

    watched, folder = engine.train, tmp_path / "run"
    trainings.clear()
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(engine, "train", train)
        call("active_learning", *run.words(folder, "random", *options))
    call("active_learning", *run.words(folder, "random", *options))
    assert len(trainings) == 2 * (1 + 3)
    assert results_of(folder) == whole


def test_linked_images_are_in_one_fold():
    ids = [f"i{number}" for number in np.random.default_rng(0).permutation(12)]
    plain = fold_parts(ids, [], 5)
    assert plain == [sorted(ids[fold::5]) for fold in range(5)]
    units = [["i0", "i3", "i5", "elsewhere"], ["i1", "i2"]]
    parts = fold_parts(ids, units, 5)
    assert sorted(itertools.chain(*parts)) == sorted(ids) and len(parts) <= 5
    for unit in units:
        assert sum(bool(set(unit) & set(part)) for part in parts) == 1
    assert fold_parts(["a", "b"], [["a", "b"]], 2) == [["a", "b"]]


@pytest.mark.parametrize("more", [[], ["--self-train"], ["--folds", 3]])
def test_the_steps_of_a_round_are_known_before(data, tmp_path, monkeypatch, more):
    """What the estimate of the time begins with is what the round then makes."""
    paces = []

    class Watched(learner.Pace):
        def __init__(self, *args):
            super().__init__(*args)
            self.planned = self.left
            paces.append(self)

    monkeypatch.setattr(learner, "Pace", Watched)
    words = [*LOOP, "--recipe", "strong", "--min-steps", 7, "--epochs", 1, *more]
    call("active_learning", "--data", data, "--out", tmp_path / "run", *words)
    assert len(paces) == 3
    assert all(pace.planned > 7 and pace.left == 0 for pace in paces)
