"""Features and the cold-start selection as a stage."""

import json
import shutil

import numpy as np
import pytest
import torch
import torchvision
from conftest import CLUSTER, call
from helpers_preprocess import make_set

import cluster
from segmentation.common.runfiles import read_npz, sha256_file, write_npz
from segmentation.common.stages import sha256_tensors
from segmentation.data.datafolder import open_data
from segmentation.data.images import Images, load_tensor, to_input
from segmentation.model.unet import UNet, encoder_sha256, load_encoder, load_model, save_model
from segmentation.selection import geometry
from self_supervised import features

FILES = ("features.npz", "clusters.npz", "selection.json", "latent.png", "selection.png")


def read_selection(folder):
    return json.loads((folder / "selection.json").read_text())


@pytest.fixture(scope="module")
def resnet18(tmp_path_factory):
    """A weights file as torchvision publishes them."""
    path = tmp_path_factory.mktemp("resnet") / "resnet18-0.pth"
    torch.manual_seed(0)
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), path)
    return path


def test_it_writes_its_files(clusters):
    assert {path.name for path in clusters.iterdir()} == {
        "args.json",
        "env.json",
        "features.npz",
        "clusters.npz",
        "selection.json",
        "latent.png",
        "selection.png",
    }


def test_row_i_is_image_i_clean_and_in_evaluation_mode(data, weights, clusters):
    """The released code drew features from a shuffling, corrupting generator in training mode."""
    opened, content = open_data(data), read_npz(clusters / "features.npz")
    assert content["ids"].tolist() == opened.pool
    model = load_encoder(weights / "encoder.pt")
    for row in (0, 7, len(opened.pool) - 1):
        with torch.no_grad():
            bottleneck, _ = model.encode(to_input(load_tensor(opened, [opened.pool[row]])))
        expected = torch.nn.functional.adaptive_avg_pool2d(bottleneck, 2).flatten().numpy()
        np.testing.assert_allclose(content["features"][row], expected, rtol=1e-4, atol=1e-6)
    assert content["features"].dtype == np.float32
    assert str(content["encoder_sha256"]) == encoder_sha256(model)
    assert "pretext_loss" not in content  # an encoder restores nothing
    assert content["patterns"].shape == (48, 5, 32) and content["patterns"].dtype == np.float32
    assert len(np.unique(content["patterns"], axis=0)) == 48


def test_the_selection_is_the_papers_rule(data, clusters):
    opened = open_data(data)
    features = read_npz(clusters / "features.npz")["features"]
    content = read_npz(clusters / "clusters.npz")
    cluster, centroids = content["cluster"], content["centroids"]
    selection = json.loads((clusters / "selection.json").read_text())["selection"]
    ids = [entry["id"] for entry in selection]
    assert len(ids) == len(set(ids)) == 12 and set(ids) <= set(opened.pool)
    sizes = np.bincount(cluster, minlength=4)
    quotas = geometry.proportional_quotas(sizes, 12)
    for k in range(4):
        members = [name for name, own in zip(opened.pool, cluster, strict=True) if own == k]
        rows = [opened.pool.index(name) for name in members]
        distance = np.linalg.norm(features[rows] - centroids[k], axis=1)
        nearest = [members[i] for i in np.argsort(distance)[: quotas[k]]]
        assert [entry["id"] for entry in selection if entry["cluster"] == k] == nearest


@pytest.mark.parametrize("pool_on", ["auto", "device"])
def test_again_gives_the_same_bytes(data, weights, clusters, tmp_path, pool_on):
    words = ["--data", data, "--weights", weights / "encoder.pt", "--out", tmp_path, *CLUSTER]
    call("cluster", *words, "--pool-on", pool_on)
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (clusters / name).read_bytes(), name


def test_a_finished_stage_is_skipped(data, weights, clusters, capsys):
    words = ["--data", data, "--weights", weights / "encoder.pt", "--out", clusters, *CLUSTER]
    call("cluster", *words)
    assert "finished already" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "width"), [(["--pooling", 1], 32), (["--pooling", 2], 128), (["--pca", 5], 128)]
)
def test_feature_sizes(data, weights, tmp_path, options, width):
    words = ["--data", data, "--weights", weights / "encoder.pt", "--out", tmp_path, *CLUSTER]
    call("cluster", *words, *options)
    assert read_npz(tmp_path / "features.npz")["features"].shape == (48, width)
    dimensions = 5 if "--pca" in options else width
    assert read_npz(tmp_path / "clusters.npz")["centroids"].shape == (4, dimensions)


def test_a_rule_reads_the_features_that_the_loop_reads(data, weights, tmp_path):
    """Those before --pca, by which an arm of the same rule chooses too."""
    words = ["--data", data, "--weights", weights / "encoder.pt", *CLUSTER, "--rule", "kcenter"]
    chosen = []
    for name, more in (("all", []), ("few", ["--pca", 2])):
        call("cluster", *words, "--out", tmp_path / name, *more)
        selection = json.loads((tmp_path / name / "selection.json").read_text())["selection"]
        chosen.append([entry["id"] for entry in selection])
    assert chosen[0] == chosen[1]


def test_the_whole_pool_can_be_asked_for(data, weights, tmp_path):
    words = ["--data", data, "--weights", weights / "encoder.pt", "--out", tmp_path]
    call("cluster", *words, "--k", 48, "--budget", 48, "--device", "cpu")
    selection = json.loads((tmp_path / "selection.json").read_text())["selection"]
    assert sorted(entry["id"] for entry in selection) == open_data(data).pool


@pytest.mark.parametrize("size", [(1, 5), (2, 5), (9, 1), (12, 1), (12, 2)])
def test_every_pool_has_a_map(size):
    made = np.random.default_rng(0).normal(size=size).astype(np.float32)
    points, method = cluster.project(made, 0)
    assert points.shape == (size[0], 2) and np.isfinite(points).all()
    assert method == ("t-SNE" if size == (12, 2) else "PCA")
    if size[1] == 1:  # a line
        assert np.abs(points[:, 0]) == pytest.approx(np.abs(made - made.mean())[:, 0], abs=1e-5)


def test_a_pool_of_one_image_and_features_of_one_dimension(data, tmp_path):
    call("preprocess", "--demo", 3, "--size", 32, "--test-count", 2, "--out", tmp_path / "one")
    words = ["--features", "thumbnail", "--k", 1, "--budget", 1, "--device", "cpu"]
    call("cluster", "--data", tmp_path / "one", "--out", tmp_path / "out", *words)
    assert (tmp_path / "out" / "latent.png").exists()
    call("cluster", "--data", data, "--out", tmp_path / "line", *words, "--pca", 1)
    assert not read_npz(tmp_path / "line" / "clusters.npz")["map"][:, 1].any()


def test_bad_input(data, weights, clusters, tmp_path, refused):
    def words(**changed):
        options = {
            "data": data,
            "weights": weights / "encoder.pt",
            "out": tmp_path / "out",
            "budget": 5,
        }
        given = {**options, **changed}
        return [word for name, value in given.items() for word in (f"--{name}", value)]

    assert "budget 49: the pool" in refused("cluster", *words(budget=49))
    assert "--k 49: the pool" in refused("cluster", *words(k=49))
    assert "--pca 500: give at most 48" in refused("cluster", *words(pca=500))
    assert "none.pt: not found" in refused("cluster", *words(weights=tmp_path / "none.pt"))
    assert "--budgit" in refused("cluster", *words(budgit=3))
    save_model(tmp_path / "rgb.pt", UNet(3, 3, width=4))
    assert "rgb.pt: weights for 3 channel" in refused(
        "cluster", *words(weights=tmp_path / "rgb.pt")
    )


def test_features_of_other_weights_are_refused(data, clusters, tmp_path, refused):
    torch.manual_seed(1)
    save_model(tmp_path / "other.pt", UNet(width=4))
    (tmp_path / "run").mkdir()
    shutil.copy(clusters / "features.npz", tmp_path / "run")
    line = refused(
        "cluster",
        *("--data", data, "--weights", tmp_path / "other.pt", "--out", tmp_path / "run", *CLUSTER),
    )
    assert "features.npz: features of other weights" in line


def test_features_of_another_pool_are_refused(data, weights, clusters, tmp_path, refused):
    content = read_npz(clusters / "features.npz")
    write_npz(tmp_path / "features.npz", **{**content, "ids": content["ids"][::-1]})
    words = ["--data", data, "--weights", weights / "encoder.pt", "--out", tmp_path, *CLUSTER]
    assert "features.npz: features of another pool" in refused("cluster", *words)


# Sources of features ----------------------------------------------------------------------------


def test_what_the_files_say_of_the_features(data, weights, clusters):
    encoder = encoder_sha256(load_encoder(weights / "encoder.pt"))
    origin = {
        "kind": "genesis",
        "weights_sha256": encoder,
        "encoder_sha256": encoder,
        "pretext_sha256": "",
        "scale": "none",
    }
    made = {**origin, "features_sha256": sha256_file(clusters / "features.npz")}
    chosen = read_selection(clusters)
    for content, names in (
        (read_npz(clusters / "features.npz"), origin),
        (read_npz(clusters / "clusters.npz"), made),
        (chosen, made),
    ):
        assert {name: str(content[name]) for name in names} == names
    settings = {"pca": 0, "k": 4, "seed": 0, "budget": 12}
    assert {name: chosen[name] for name in settings} == settings


def test_the_whole_model_gives_losses_too(data, weights, clusters, tmp_path, refused):
    words = ["--data", data, "--weights", weights / "best.pt", *CLUSTER]
    for name in ("first", "second"):
        call("cluster", *words, "--out", tmp_path / name, "--batch", 32 if name == "first" else 48)
    first, encoder = (read_npz(path / "features.npz") for path in (tmp_path / "first", clusters))
    assert set(first) - set(encoder) == {"pretext_loss"}
    np.testing.assert_array_equal(first["features"], encoder["features"])
    assert read_selection(tmp_path / "first")["selection"] == read_selection(clusters)["selection"]

    opened, model = open_data(data), load_model(weights / "best.pt")
    expected = features.restoration_loss(model, Images(opened, opened.pool, "cpu"), 0, 16)
    assert first["pretext_loss"].dtype == np.float32
    np.testing.assert_allclose(first["pretext_loss"], expected, rtol=1e-5)
    assert str(first["pretext_sha256"]) == sha256_tensors(model.state_dict())
    assert str(first["encoder_sha256"]) == str(encoder["encoder_sha256"])
    second = read_npz(tmp_path / "second" / "features.npz")
    np.testing.assert_allclose(second["pretext_loss"], expected, rtol=1e-5)

    line = refused("cluster", *words, "--out", clusters)  # its features.npz has no losses
    assert "args.json: this folder was made with another whole model" in line


def test_a_segmentation_model_gives_no_losses(data, weights, tmp_path):
    model = load_model(weights / "best.pt")
    save_model(tmp_path / "weights.pt", model)  # as active_learning.py writes it: no epoch
    out = tmp_path / "out"
    call("cluster", "--data", data, "--weights", tmp_path / "weights.pt", "--out", out, *CLUSTER)
    content = read_npz(out / "features.npz")
    assert "pretext_loss" not in content and str(content["pretext_sha256"]) == ""
    assert str(content["encoder_sha256"]) == encoder_sha256(model)


@pytest.mark.parametrize("kind", ["timm resnet18", "thumbnail 16", "mask 16"])
def test_other_features(data, resnet18, tmp_path, kind, capsys):
    opened = open_data(data)
    images = Images(opened, opened.pool, "cpu").subset(torch.arange(3, 48, 9))
    if kind == "thumbnail 16":
        options, file_hash = ["--features", "thumbnail"], ""
        expected = features.thumbnails(images, 16, 48)
    elif kind == "mask 16":
        options, file_hash = ["--features", "mask"], ""
        expected = features.masks(images, 16, 48)
    else:
        options = ["--features", "timm", "--backbone", "resnet18", "--weights", resnet18]
        model, _ = features.load_backbone("resnet18", str(resnet18))
        expected = features.backbone_features(model, images, 2, 48)
        file_hash = sha256_tensors(model.state_dict())
    words = ["--data", data, "--out", tmp_path, *CLUSTER, *options]
    call("cluster", *words)
    content, chosen = read_npz(tmp_path / "features.npz"), read_selection(tmp_path)
    assert content["ids"].tolist() == opened.pool and "pretext_loss" not in content
    assert ("patterns" in content) == (kind == "timm resnet18")
    assert content["features"].dtype == np.float32 and len(content["features"]) == 48
    np.testing.assert_allclose(content["features"][3:48:9], expected, rtol=1e-3, atol=1e-4)
    for file in (content, read_npz(tmp_path / "clusters.npz"), chosen):
        assert str(file["kind"]) == kind
        assert str(file["weights_sha256"]) == file_hash
        assert str(file["encoder_sha256"]) == str(file["pretext_sha256"]) == ""
    ids = [entry["id"] for entry in chosen["selection"]]
    assert len(set(ids)) == 12 and set(ids) <= set(opened.pool)
    assert (tmp_path / "latent.png").exists() and (tmp_path / "selection.png").exists()
    capsys.readouterr()
    call("cluster", *words)
    assert "finished already" in capsys.readouterr().out


def test_released_features(data, weights, clusters, tmp_path):
    words = ["--data", data, "--weights", weights / "best.pt", "--out", tmp_path, *CLUSTER]
    call("cluster", *words, "--released-features", "--seed", 1)
    opened, content = open_data(data), read_npz(tmp_path / "features.npz")
    images, model = Images(opened, opened.pool, "cpu"), load_model(weights / "best.pt")
    expected = features.released(model, images, 2, seed=1)
    np.testing.assert_allclose(content["features"], expected, rtol=1e-4, atol=1e-6)
    losses = features.restoration_loss(model, images, 1, 16)  # these are of their own images
    np.testing.assert_allclose(content["pretext_loss"], losses, rtol=1e-5)
    assert content["ids"].tolist() == opened.pool and "patterns" not in content
    assert str(content["kind"]) == read_selection(tmp_path)["kind"] == "genesis released"
    assert str(content["encoder_sha256"]) == encoder_sha256(model)


@pytest.mark.parametrize("scale", ["l2", "instance", "standard"])
def test_clusters_of_scaled_features(data, weights, clusters, tmp_path, scale):
    words = ["--data", data, "--weights", weights / "encoder.pt", "--out", tmp_path, *CLUSTER]
    call("cluster", *words, "--scale", scale)
    found, content = read_npz(tmp_path / "clusters.npz"), read_npz(tmp_path / "features.npz")
    used = features.scaled(read_npz(clusters / "features.npz")["features"], scale)
    np.testing.assert_array_equal(content["features"], used)
    assert str(content["scale"]) == read_selection(tmp_path)["scale"] == scale
    distance = np.linalg.norm(used - found["centroids"][found["cluster"]], axis=1)
    np.testing.assert_allclose(found["distance"], distance, rtol=1e-5)
    for k in range(4):  # a centroid is the mean of its members
        mean = used[found["cluster"] == k].mean(axis=0)
        np.testing.assert_allclose(found["centroids"][k], mean, rtol=1e-3, atol=1e-5)


def test_bad_sources(data, weights, clusters, resnet18, tmp_path, refused):
    words = ["--data", data, "--out", tmp_path / "out", *CLUSTER]

    def line(*options):
        return refused("cluster", *words, "--features", *options)

    assert "--features genesis needs --weights" in line("genesis")
    assert "--features timm needs --weights" in line("timm")
    assert "takes no --weights" in line("thumbnail", "--weights", resnet18)
    assert "takes no --weights" in line("mask", "--weights", resnet18)
    assert "--released-features is for --features genesis" in line(
        "thumbnail", "--released-features"
    )
    assert "not weights of resnet50" in line("timm", "--weights", resnet18)
    assert "best.pt: not weights of resnet18" in line(
        "timm", "--weights", weights / "best.pt", "--backbone", "resnet18"
    )
    assert "resnet18-0.pth: not a weights file of schema 1" in line(
        "genesis", "--weights", resnet18
    )
    assert "--pca 49: give at most 48" in line("thumbnail", "--pca", 49)
    resnet = ["timm", "--weights", resnet18, "--backbone", "resnet18"]
    assert "--pca 49: give at most 48" in line(*resnet, "--pca", 49)
    assert not (tmp_path / "out").exists()  # nothing was begun with what does not fit

    (tmp_path / "out").mkdir()
    shutil.copy(clusters / "features.npz", tmp_path / "out")
    assert "features.npz: features of kind genesis, not thumbnail 16" in line("thumbnail")


def test_features_of_masks_need_every_mask(tmp_path, refused):
    root = make_set(tmp_path / "set", 12)
    for file in (root / "masks").glob("A00[0-7]*"):
        file.unlink()
    call("preprocess", "--root", root, "--size", 32, "--out", tmp_path / "data")
    words = ["--data", tmp_path / "data", "--features", "mask", "--out", tmp_path / "out"]
    line = refused("cluster", *words, "--k", 2, "--budget", 3)
    assert "images asked for have no mask, A00" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("rule", ["typiclust", "random", "pt4al", "patterns"])
def test_another_rule(data, weights, tmp_path, rule):
    files = ["--data", data, "--weights", weights / "best.pt"]
    call("cluster", *files, "--out", tmp_path / "run", *CLUSTER, "--rule", rule)
    chosen = json.loads((tmp_path / "run" / "selection.json").read_text())
    ids = [entry["id"] for entry in chosen["selection"]]
    assert chosen["rule"] == rule and len(set(ids)) == 12 and set(ids) <= set(open_data(data).pool)


def test_a_rule_without_its_features_is_refused(data, weights, tmp_path, refused):
    files = ["--data", data, "--weights", weights / "encoder.pt", "--out", tmp_path / "run"]
    assert "--weights best.pt" in refused("cluster", *files, *CLUSTER, "--rule", "pt4al")
    words = ["--data", data, "--out", tmp_path / "run", *CLUSTER, "--rule", "patterns"]
    assert "or --features timm" in refused("cluster", *words, "--features", "thumbnail")
    released = ["--weights", weights / "encoder.pt", "--released-features"]
    assert "not the released ones" in refused("cluster", *words, *released)
    assert not (tmp_path / "run").exists()


def test_a_folder_without_patterns_opens_but_not_for_their_rule(
    data, weights, clusters, tmp_path, refused
):
    content = read_npz(clusters / "features.npz")
    del content["patterns"]  # as older folders are
    for rule in ("saal", "patterns"):
        (tmp_path / rule).mkdir()
        write_npz(tmp_path / rule / "features.npz", **content)
    words = ["--data", data, "--weights", weights / "encoder.pt", *CLUSTER]
    call("cluster", *words, "--out", tmp_path / "saal")
    assert read_selection(tmp_path / "saal")["selection"] == read_selection(clusters)["selection"]
    line = refused("cluster", *words, "--out", tmp_path / "patterns", "--rule", "patterns")
    assert "patterns/features.npz: has no patterns; delete" in line
    assert "run cluster.py with --features genesis" in line
