"""Images as network inputs: tensors on a device, and the only place where inputs are scaled."""

import copy

import torch

from segmentation.common.transfer import sent

SHARE = 0.5  # the part of a CUDA device's free memory that images may use


def load_tensor(data, ids):
    """uint8 tensor len(ids) x C x H x W of a datafolder.Data, in the order of ids."""
    return torch.from_numpy(data.load_images(ids)).permute(0, 3, 1, 2).contiguous()


class Images:
    """Images of a data set, in the order of `ids`; indexing by position gives them on `device`.

    `hold`: "device" copies all of them to the device's memory at the start, as uint8; "host" reads
    each batch from the memory map, where the system's page cache keeps what fits; "auto" is
    "device" on a CUDA GPU that has room for them, else "host". The images are the same either way.
    """

    def __init__(self, data, ids, device, hold="auto"):
        self.data, self.ids, self.device = data, list(ids), torch.device(device)
        self.rows = torch.arange(len(self.ids))  # of `held`
        self.held = None
        size = len(self.ids) * data.images[0].nbytes
        if hold == "auto":
            on_cuda = self.device.type == "cuda"
            fits = on_cuda and size < SHARE * torch.cuda.mem_get_info(self.device.index)[0]
            hold = "device" if fits else "host"
        if hold == "device":
            shape = (len(self.ids), data.channels, *data.images.shape[1:3])
            self.held = torch.empty(shape, dtype=torch.uint8, device=self.device)
            for start in range(0, len(self.ids), 256):
                part = slice(start, start + 256)
                self.held[part] = load_tensor(data, self.ids[part]).to(self.device)

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, places):
        """uint8 B x C x H x W on the device; `places` is a slice or an int64 CPU tensor."""
        if self.held is not None:
            return self.held.index_select(0, sent(self.rows[places], self.device))
        return sent(load_tensor(self.data, self.subset(places).ids), self.device)

    def subset(self, places):
        """The images at `places`, a slice or an int64 CPU tensor, in that order; shares memory."""
        part = copy.copy(self)
        part.rows = self.rows[places]
        part.ids = [self.ids[i] for i in torch.arange(len(self))[places].tolist()]
        return part


def to_input(images):
    """uint8 images in 0..255 -> float32 in [0,1], the input of every network in this project.

    Pretraining, feature extraction, training and prediction all use this function, so that
    transferred weights see inputs on the scale they were trained on.
    """
    return images.to(torch.float32).div_(255)
