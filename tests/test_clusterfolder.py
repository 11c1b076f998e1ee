"""What cluster.py wrote is checked where it is read, and put in the order of the pool."""

import numpy as np
import pytest
from conftest import CLUSTER, call

from segmentation.common.runfiles import UserError, read_npz, sha256_file, write_npz
from segmentation.common.schemas import ROWS, read_arrays
from segmentation.selection.clusterfolder import open_clusters

IDS = ["a", "b", "c"]
VALUES = {
    "features": np.arange(6, dtype=np.float32).reshape(3, 2),
    "patterns": np.zeros((3, 5, 2), np.float32),
    "pretext_loss": np.arange(3.0),
    "map": np.zeros((3, 2), np.float32),
    "cluster": np.array([2, 0, 1]),
    "distance": np.array([0.5, 1.5, 2.5]),
}
IN_CLUSTERS = ("cluster", "distance", "map")


def write(folder, **changed):
    """features.npz and clusters.npz of three images, with some arrays changed or, by None, out."""
    arrays = {"ids": np.array(IDS), "encoder_sha256": "e", **VALUES, **changed}
    arrays = {name: values for name, values in arrays.items() if values is not None}
    own = {name: arrays.pop(name) for name in IN_CLUSTERS if name in arrays}
    write_npz(folder / "features.npz", **arrays)
    made_from = {"features_sha256": sha256_file(folder / "features.npz")}
    write_npz(folder / "clusters.npz", ids=np.array(IDS[::-1]), **own, **made_from)


def test_rows_are_in_the_order_of_the_pool(tmp_path):
    """Also where the two files have their rows in different orders."""
    write(tmp_path)
    found = open_clusters(tmp_path, ["c", "a"])
    assert found.keys() == VALUES.keys() - {"map"}
    np.testing.assert_array_equal(found["features"], [[4, 5], [0, 1]])
    np.testing.assert_array_equal(found["pretext_loss"], [2, 0])
    np.testing.assert_array_equal(found["cluster"], [2, 1])  # of c, b, a
    np.testing.assert_array_equal(found["distance"], [0.5, 2.5])


def wrong():
    """(arrays that are changed, what is said of which file)."""
    for name, values in VALUES.items():
        file = "clusters.npz" if name in IN_CLUSTERS else "features.npz"
        yield {name: values[:2]}, file, f"{name} has not one row"
        yield {name: values[..., None]}, file, f"{name} has not one row"
        yield {name: values.astype(str)}, file, f"{name} has not one row"
        if values.dtype.kind == "f":
            yield {name: np.full_like(values, np.nan)}, file, f"{name} has values that are not fin"
        if name in ("features", "cluster", "distance"):
            yield {name: None}, file, f"has no {name}"
    yield {"encoder_sha256": None}, "features.npz", "has no encoder_sha256"
    yield {"ids": None}, "features.npz", "has no ids"
    yield {"ids": np.array(["a", "b", "a"])}, "features.npz", "ids are not distinct"
    yield {"ids": np.arange(3)}, "features.npz", "ids are not a list of texts"
    yield {"ids": np.array([IDS])}, "features.npz", "ids are not a list of texts"
    yield {"ids": np.array(["a", "b", "x"])}, "features.npz", "has no image c; run cluster.py"


@pytest.mark.parametrize(("changed", "file", "said"), list(wrong()))
def test_arrays_that_do_not_fit_are_told(tmp_path, changed, file, said):
    write(tmp_path, **changed)
    with pytest.raises(UserError, match=f"^{tmp_path}/{file}: {said}"):
        open_clusters(tmp_path, IDS)


def test_arrays_that_no_stage_writes_are_let_through(tmp_path):
    write_npz(tmp_path / "x.npz", ids=np.array(IDS), other=np.zeros(7))
    assert read_arrays(tmp_path / "x.npz")["other"].shape == (7,)


def test_the_advice_mends_it(data, weights, clusters, tmp_path):
    """A file that is damaged, deleted and made again has the bytes that it had."""
    words = ["--data", data, "--weights", weights / "encoder.pt", "--out", tmp_path, *CLUSTER]
    call("cluster", *words)
    pool = read_npz(tmp_path / "clusters.npz")["ids"].tolist()
    for name in ("clusters.npz", "features.npz"):
        path = tmp_path / name
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(UserError, match=f"^{path}: .*; delete it, then run cluster.py$"):
            open_clusters(tmp_path, pool)
        path.unlink()
        call("cluster", *words)
        assert path.read_bytes() == whole
        assert open_clusters(tmp_path, pool).keys() >= {"features", "cluster", "distance"}


def test_every_array_of_the_schema_is_one_that_is_written(clusters):
    written = {*read_npz(clusters / "features.npz"), *read_npz(clusters / "clusters.npz")}
    assert ROWS.keys() - written == {"pretext_loss"}  # an encoder restores nothing
