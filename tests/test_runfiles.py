"""Seeds, atomic files, stages."""

import argparse
import io
import json
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch

from segmentation.common import runfiles, stages
from segmentation.common.runfiles import UserError


def test_streams_are_named_and_stable():
    assert runfiles.derived_seed(0, "a", 1) == runfiles.derived_seed(0, "a", 1)
    seeds = {runfiles.derived_seed(s, *n) for s in (0, 1) for n in (("a",), ("a", 1), ("b",))}
    assert len(seeds) == 6 and all(0 <= seed < 2**63 for seed in seeds)
    # another value here would change every run that was ever published
    assert runfiles.derived_seed(0, "weights") == 5681230749671811970


def test_generators_follow_the_stream():
    a, b = (runfiles.numpy_rng(3, "x").random(4) for _ in range(2))
    assert (a == b).all() and (a != runfiles.numpy_rng(4, "x").random(4)).any()
    a, b = (torch.rand(4, generator=stages.torch_rng(3, "x")) for _ in range(2))
    assert torch.equal(a, b)


def test_a_gpu_by_number_is_the_current_one(monkeypatch):
    current = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    assert stages.pick_device("cuda").index is None and not current
    assert stages.pick_device("cuda:1") == torch.device("cuda:1")
    assert current == [torch.device("cuda:1")]
    with pytest.raises(UserError, match="--device cuda:2: not there; give cuda:0 to cuda:1"):
        stages.pick_device("cuda:2")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file.txt"
    runfiles.write_text(path, "old")
    with pytest.raises(RuntimeError), runfiles.atomic(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file.txt"]


def test_round_trips(tmp_path):
    runfiles.write_json(tmp_path / "a.json", {"x": [1, 0.1]})
    assert runfiles.read_json(tmp_path / "a.json")["x"] == [1, 0.1]
    rows = [{"id": "a", "score": 1 / 3}, {"id": "b", "score": 1e-300}]
    runfiles.write_csv(tmp_path / "a.csv", rows)
    assert [float(row["score"]) for row in runfiles.read_csv(tmp_path / "a.csv")] == [1 / 3, 1e-300]
    runfiles.write_npz(tmp_path / "a.npz", ids=np.array(["p", "q"]), x=np.arange(3), tag="t")
    content = runfiles.read_npz(tmp_path / "a.npz")
    assert content["ids"].tolist() == ["p", "q"] and str(content["tag"]) == "t"
    stages.write_torch(tmp_path / "a.pt", {"w": torch.ones(2)})
    assert stages.read_torch(tmp_path / "a.pt")["w"].tolist() == [1, 1]


READERS = {
    "json": runfiles.read_json,
    "npz": runfiles.read_npz,
    "pt": stages.read_torch,
    "csv": runfiles.read_csv,
}


@pytest.mark.parametrize("ending", READERS)
def test_a_missing_file_is_named_with_the_mend(tmp_path, ending):
    path = tmp_path / f"x.{ending}"
    with pytest.raises(UserError) as error:
        READERS[ending](path, "run this")
    assert str(error.value) == f"{path}: not found; run this"


@pytest.mark.parametrize("ending", ["json", "npz", "pt"])
@pytest.mark.parametrize("content", [b"", b"nonsense", b"\x80\x02}q\x00."])
def test_a_broken_file_is_named(tmp_path, ending, content):
    path = tmp_path / f"x.{ending}"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"x\.{ending}: not "):
        READERS[ending](path)


NO_ARCHIVES = {
    "text": lambda path: path.write_text("hello"),
    "pickle": lambda path: path.write_bytes(pickle.dumps([1, 2])),
    "array": lambda path: path.write_bytes(npy(np.zeros(3))),
    "objects": lambda path: np.savez(path, schema=1, x=np.array([{}], dtype=object)),
    "text inside": lambda path: zip_of(path, b"hello"),
    "half an array": lambda path: zip_of(path, npy(np.zeros(30))[:-9]),
}


def npy(values):
    """The bytes of an .npy file."""
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def zip_of(path, content):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", content)


@pytest.mark.parametrize("kind", NO_ARCHIVES)
def test_what_is_no_archive_of_arrays_is_said_without_advice_of_numpy(tmp_path, kind):
    NO_ARCHIVES[kind](tmp_path / "x.npz")
    with pytest.raises(UserError, match=r"x\.npz: .*; delete it, then run this") as error:
        runfiles.read_npz(tmp_path / "x.npz", "run this")
    line = str(error.value)
    assert "allow_pickle" not in line and "\n" not in line
    assert "not a readable .npz archive" in line or "holds more than arrays" in line


def test_another_schema_is_refused(tmp_path):
    (tmp_path / "x.json").write_text(json.dumps({"schema": 99}))
    with pytest.raises(UserError, match="not a file of schema 1"):
        runfiles.read_json(tmp_path / "x.json")
    np.savez(tmp_path / "x.npz", schema=99)
    with pytest.raises(UserError, match="not a file of schema 1"):
        runfiles.read_npz(tmp_path / "x.npz")


def test_tensor_hash():
    a = {"x": torch.arange(6.0).view(2, 3), "y": torch.ones(1)}
    same = {"y": torch.ones(1), "x": torch.arange(6.0).view(2, 3).t().contiguous().t()}
    assert stages.sha256_tensors(a) == stages.sha256_tensors(same)
    for other in (
        {**a, "x": a["x"] + 1},
        {**a, "x": a["x"].view(3, 2)},
        {**a, "x": a["x"].double()},
        {"z": a["x"], "y": a["y"]},
    ):
        assert stages.sha256_tensors(a) != stages.sha256_tensors(other)


def test_a_stage_refuses_other_settings(tmp_path):
    args = argparse.Namespace(out=tmp_path, k=10, device="cpu", data="d", pool_on="host")
    stages.begin_stage(tmp_path, args, {"data": "1234"})
    elsewhere = argparse.Namespace(out="x", k=10, device="cuda", data="e", pool_on="device")
    stages.begin_stage(tmp_path, elsewhere, {"data": "1234"})
    with pytest.raises(UserError, match="made with --k 10, not 11"):
        stages.begin_stage(tmp_path, argparse.Namespace(k=11), {"data": "1234"})
    with pytest.raises(UserError, match="made with another data"):
        stages.begin_stage(tmp_path, args, {"data": "5678"})
    record = json.loads((tmp_path / "args.json").read_text())
    assert record["args"]["k"] == 10 and record["inputs"] == {"data": "1234"}
    assert json.loads((tmp_path / "env.json").read_text())["torch"] == torch.__version__


def test_devices():
    assert stages.pick_device("cpu").type == "cpu"
    with pytest.raises(UserError, match="--device nonsense"):
        stages.pick_device("nonsense")
