"""The parsers that run.py fuzzes: name -> function(folder) -> function(bytes), and their corpus."""

import contextlib
import io
import json
import shutil

import numpy as np
import torch
from helpers_data import write_data
from helpers_outlines import random_blob
from PIL import Image
from safetensors.torch import save_file

from segmentation.analysis.runs import read_costs, read_metrics
from segmentation.common.runfiles import UserError, read_csv, write_csv, write_npz
from segmentation.common.schemas import (
    Annotation,
    Record,
    State,
    read_arrays,
    read_checked,
)
from segmentation.data import drafts, formats, lists
from segmentation.data.datafolder import open_data
from segmentation.data.masks import read_mask
from segmentation.data.photos import read_photo
from segmentation.data.sources import survey
from segmentation.model import metrics
from segmentation.model.encoders import read_file
from segmentation.model.trained import KEY, open_trained
from segmentation.model.unet import UNet, load_model, save_model

SIZE = (37, 52)


def of_file(name, read):
    """A target that writes the bytes to a file and reads it."""

    def make(folder):
        path = folder / name

        def target(data):
            path.write_bytes(data)
            with contextlib.suppress(UserError):
                read(path)

        return target

    return make


def annotations(path):
    formats.kind_of(path)
    for drawing in formats.read(path).drawings:
        with contextlib.suppress(UserError):
            mask = drawing.mask(SIZE)
            assert mask.shape == SIZE and mask.dtype == bool


def mask(path):
    found = read_mask(path, SIZE).values
    assert found.shape == SIZE and set(np.unique(found)) <= {0, 1}


def photo(path):
    assert read_photo(path).picture.mode == "RGB"


def tables(folder):
    """Tables of groups, lists of test images, CSV files."""
    (folder / "images").mkdir(exist_ok=True)
    for name in ("a", "b"):
        Image.new("RGB", SIZE[::-1]).save(folder / "images" / f"{name}.png")
    sources = survey(folder / "images", None).sources

    def target(data):
        path = folder / "x.csv"
        path.write_bytes(data)
        for read in (
            read_csv,
            lambda p: lists.read_groups(p, sources),
            lambda p: lists.read_test_list(p, sources),
        ):
            with contextlib.suppress(UserError):
                read(path)

    return target


def data_folder(folder):
    """manifest.json and splits.json, as one text with a line of zeros between them."""
    ids = ["a", "b", "c"]
    arrays = np.zeros((3, 32, 32, 1), np.uint8), np.zeros((3, 32, 32), np.uint8)
    write_data(folder / "data", *arrays, ids, ids[:2], ids[2:])

    def target(data):
        manifest, _, splits = data.partition(b"\0")
        (folder / "data" / "manifest.json").write_bytes(manifest)
        (folder / "data" / "splits.json").write_bytes(splits)
        with contextlib.suppress(UserError):
            opened = open_data(folder / "data")
            opened.load_images(opened.pool)

    return target


def records(path):
    """The JSON files of runs."""
    for schema in (State, Record, Annotation):
        with contextlib.suppress(UserError):
            read_checked(path, schema, "delete it")


def weights(path):
    for read in (load_model, read_file, open_trained):
        with contextlib.suppress(UserError):
            read(path)


def exports(folder):
    """The metadata in an ONNX file of export.py."""
    import onnx

    path = folder / "x.onnx"
    model = tiny_onnx()

    def target(data):
        onnx.helper.set_model_props(model, {KEY: data.decode(errors="replace")})
        onnx.save(model, path)
        with contextlib.suppress(UserError):
            trained = open_trained(path)
            assert trained.channels == 1 and len(trained.size) == 2

    return target


def tiny_onnx():
    """An ONNX network with the inputs and outputs of export.py: the logits are the image."""
    from onnx import TensorProto, helper

    image, logits = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 1, "height", "width"])
        for name in ("image", "logits")
    )
    features = helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", 1])
    nodes = [
        helper.make_node("Identity", ["image"], ["logits"]),
        helper.make_node("ReduceMean", ["image"], ["features"], axes=[2, 3], keepdims=0),
    ]
    graph = helper.make_graph(nodes, "tiny", [image], [logits, features])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


TARGETS = {
    "annotations": of_file("x.json", annotations),
    "masks": of_file("x.png", mask),
    "photographs": of_file("x.jpg", photo),
    "tables": tables,
    "data folders": data_folder,
    "records": of_file("state.json", records),
    "arrays": of_file("x.npz", read_arrays),
    "weights": of_file("w.pt", weights),
    "safetensors": of_file("x.safetensors", read_file),
    "exports": exports,
    "metrics": of_file("metrics.csv", read_metrics),
    "costs": of_file("cost.csv", read_costs),
}


# Corpus -----------------------------------------------------------------------------------------


def picture(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def pictures():
    blob = random_blob(0, SIZE)
    gray = Image.fromarray(blob.astype(np.uint8) * 255)
    colour = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8))
    alpha = colour.copy()
    alpha.putalpha(gray)
    yield from (picture(image, "PNG") for image in (gray, gray.convert("1"), colour, alpha))
    yield picture(gray.convert("P"), "PNG")
    for kind in ("TIFF", "BMP", "WEBP"):
        yield picture(gray if kind != "WEBP" else colour, kind)
    exif = Image.Exif()
    exif[274] = 6
    yield picture(colour, "JPEG", exif=exif)


def annotation_files(folder):
    masks = [random_blob(seed, SIZE) for seed in range(2)]
    some = [drafts.Draft(f"{n}.png", SIZE, one) for n, one in enumerate(masks)]
    drafts.write_coco(folder / "coco.json", some)
    drafts.write_labelme(folder / "labelme", some)
    drafts.write_label_studio(folder / "studio", some)
    for path in folder.rglob("*.json"):
        yield path.read_bytes()
    archive = folder / "cvat"
    (archive / "SegmentationClass").mkdir(parents=True)
    (archive / "labelmap.txt").write_text("# label:color_rgb:parts:actions\nlesion:250,50,83::\n")
    colours = masks[0][..., None] * np.array([250, 50, 83], np.uint8)
    Image.fromarray(colours.astype(np.uint8)).save(archive / "SegmentationClass" / "0.png")
    yield from (
        p.read_bytes() for p in [folder / shutil.make_archive(folder / "x", "zip", archive)]
    )


def run_files(folder):
    rows = [{"id": "a", **dict.fromkeys(metrics.NAMES, 0.5), "confidence": 0.4}]
    write_csv(folder / "metrics.csv", rows)
    write_csv(folder / "cost.csv", [{"id": "a", "outline": 1.5, "corrected": 0.1, "redrawn": 1.0}])
    state = {"seed": 0, "data": "x", "synthetic": True, "rounds_planned": 0}
    state |= {"rounds": [{"round": 0, "labels": 1, "pseudo": [], "note": ""}]}
    state |= {"labelled": [{"id": "a", "round": 0, "score": None, "source": "random"}]}
    asked = {"root": "x", "seed": 0, "test": ["a"], "rounds": [{"asked": ["b"], "labelled": None}]}
    record = {"args": {"seed": 0}, "inputs": {"data": "x"}}
    for name, content in (("state", state), ("annotate", asked), ("args", record)):
        (folder / f"{name}.json").write_text(json.dumps({"schema": 1, **content}))
    arrays = {"features": np.zeros((1, 2), np.float32), "cluster": np.zeros(1, np.int64)}
    write_npz(folder / "x.npz", ids=np.array(["a"]), **arrays)
    known = {"size": [32, 32], "channels": 1, "finish": {"views": True, "largest": False}}
    known |= {"pairs": [[0.5, 0.5]], "reference": [[0.0], [0.5]]}
    (folder / "exported").write_text(json.dumps(known))
    save_file({"x": torch.zeros(2, 3), "y": torch.zeros(1)}, folder / "x.safetensors")
    torch.manual_seed(0)
    save_model(folder / "w.pt", UNet(width=1), size=[32, 32])
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def corpus(name, folder):
    """Small valid files for a target: lists of bytes."""
    if name == "annotations":
        return list(annotation_files(folder))
    if name in ("masks", "photographs"):
        return list(pictures())
    if name == "tables":
        return [
            b"image,group\na,1\nb,2\n",
            b"id,round\na,0\nb,1\n",
            b"a\nb\n",
            b"\xef\xbb\xbfa;b\n1;2\n",
        ]
    if name == "data folders":
        ids = ["a", "b", "c"]
        arrays = np.zeros((3, 32, 32, 1), np.uint8), np.zeros((3, 32, 32), np.uint8)
        write_data(folder, *arrays, ids, ids[:2], ids[2:])
        return [b"\0".join((folder / f"{n}.json").read_bytes() for n in ("manifest", "splits"))]
    files = {"arrays": "x.npz", "weights": "w.pt", "safetensors": "x.safetensors"}
    files |= {"exports": "exported", "metrics": "metrics.csv", "costs": "cost.csv"}
    found = run_files(folder)
    if name == "records":
        return [found[f"{kind}.json"] for kind in ("state", "annotate", "args")]
    return [found[files[name]]]


def write_corpus(name, folder):
    """Write the corpus of a target into `folder`."""
    aside = folder / "aside"
    aside.mkdir()
    found = corpus(name, aside)
    shutil.rmtree(aside)
    for number, data in enumerate(found):
        (folder / str(number)).write_bytes(data)
