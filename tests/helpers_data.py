"""Data folders written by hand, valid to the last hash."""

import numpy as np

from segmentation.common.runfiles import read_json, sha256_file, write_json

ARRAYS = ("images.npy", "masks.npy")


def write_data(folder, images, masks, ids, pool, test, has_mask=None, synthetic=True, **more):
    """Write arrays, manifest and splits; `more` are further entries of the splits."""
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "images.npy", images)
    np.save(folder / "masks.npy", masks)
    has_mask = has_mask or dict.fromkeys(ids, True)
    rows = [
        {
            "id": name,
            "image": "x.png",
            "image_sha256": "0",
            "mask": "y.png" if has_mask[name] else None,
            "mask_sha256": "0" if has_mask[name] else None,
            "group": f"<{name}>",
        }
        for name in ids
    ]
    manifest = {
        "rows": rows,
        "size": list(images.shape[1:3]),
        "channels": images.shape[3],
        "synthetic": synthetic,
        "options": {},
        "duplicates": [],
        "arrays": {name: sha256_file(folder / name) for name in ARRAYS},
    }
    write_json(folder / "manifest.json", manifest)
    splits = {"seed": 0, "pool": sorted(pool), "test": sorted(test), "dropped": [], **more}
    write_json(folder / "splits.json", splits)
    return folder


def hash_again(folder):
    """Have the manifest say what the arrays are now."""
    manifest = read_json(folder / "manifest.json")
    manifest["arrays"] = {name: sha256_file(folder / name) for name in ARRAYS}
    write_json(folder / "manifest.json", manifest)
