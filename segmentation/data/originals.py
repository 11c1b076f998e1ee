"""The masks as they came, at the size of the original images, for a data folder made from them."""

from segmentation.common.runfiles import UserError, read_json, sha256_file
from segmentation.data.reading import mask_of
from segmentation.data.sources import find_folders, survey


class Originals:
    """The original files of a `Data` under the folder `root`, in the layout of preprocess.py."""

    def __init__(self, root, data):
        """Find the masks and look at their names only. UserError if `root` has no such folders."""
        self.root, self.data = root, data
        images, masks = find_folders(root)
        found = survey(images, masks, leave_out=[data.folder])  # what is bad was told before
        self.sources = {source.id: source for source in found.sources}
        manifest = read_json(data.folder / "manifest.json")
        self.records = {row["id"]: row for row in manifest["rows"]}

    def need(self, ids):
        """UserError unless there is a mask for each of these ids."""
        missing = [
            name for name in ids if name not in self.sources or self.sources[name].mask is None
        ]
        if missing:
            raise UserError(
                f"{self.root}: has no mask for {len(missing)} of {len(ids)} images of "
                f"{self.data.folder}, {missing[0]} first; give the folder that it was made from"
            )

    def mask(self, name):
        """bool H x W at the original size. UserError if it is not the file the data came from."""
        source, record = self.sources[name], self.records[name]
        path = source.mask
        if sha256_file(path) != record["mask_sha256"]:
            raise UserError(
                f"{path}: is not the mask from which {self.data.folder} was made; "
                "give that folder, or run preprocess.py again"
            )
        return mask_of(source, tuple(record["original_size"])).values

    def image(self, name):
        """The path of an image."""
        return self.sources[name].image
