"""Images by position: the same wherever they wait."""

import numpy as np
import pytest
import torch
from conftest import CUDA, needs_cuda

from segmentation.common.runfiles import UserError
from segmentation.data.datafolder import open_data
from segmentation.data.images import Images, load_tensor

PLACES = [
    slice(0, 5),
    slice(3, 3),
    slice(40, 99),
    slice(None),
    torch.tensor([7]),
    torch.tensor([5, 0, 31, 5]),
    torch.zeros(0, dtype=torch.int64),
]


@pytest.fixture(scope="module")
def opened(data):
    return open_data(data)


def same_type(first, second):
    assert (first.dtype, first.shape, first.device) == (second.dtype, second.shape, second.device)
    return torch.equal(first, second)


@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.parametrize("hold", ["host", "device", "auto"])
@pytest.mark.parametrize("places", PLACES, ids=str)
def test_images_are_those_of_their_ids(opened, places, hold, device):
    ids = opened.pool[::-1]  # not in the order of the rows
    images = Images(opened, ids, device, hold)
    wanted = [ids[place] for place in torch.arange(len(ids))[places]]
    expected = load_tensor(opened, wanted) if wanted else torch.zeros(0, 1, 32, 32).byte()
    assert len(images) == len(ids) and images.ids == ids
    assert same_type(images[places].cpu(), expected)
    assert images[places].device.type == device


@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.parametrize("hold", ["host", "device"])
def test_subsets_of_subsets(opened, hold, device):
    images = Images(opened, opened.pool, device, hold)
    ids = np.array(opened.pool)
    for first in (slice(4, 30), torch.arange(40, 2, -2)):
        for second in (slice(1, 9), torch.tensor([12, 3, 3, 0])):
            part = images.subset(first).subset(second)
            wanted = ids[first][second].tolist()
            assert part.ids == wanted and len(part) == len(wanted)
            assert same_type(part[:].cpu(), load_tensor(opened, wanted))
            assert same_type(part[torch.tensor([2, 0])].cpu(), load_tensor(opened, wanted)[[2, 0]])
    assert len(images) == len(ids) and images.ids == opened.pool
    assert same_type(images[:3].cpu(), load_tensor(opened, opened.pool[:3]))


def test_where_images_are_held(opened):
    assert Images(opened, opened.pool, "cpu").held is None
    assert Images(opened, opened.pool, "cpu", "host").held is None
    images = Images(opened, opened.pool, "cpu", "device")
    assert images.held.dtype == torch.uint8 and len(images.held) == len(opened.pool)
    assert images.subset(slice(3, 9)).held is images.held


def test_more_images_than_are_copied_at_once(opened):
    ids = (opened.pool * 12)[: 2 * 256 + 5]
    host, device = (Images(opened, ids, "cpu", hold) for hold in ("host", "device"))
    assert torch.equal(host[:], device[:])


@pytest.mark.parametrize("hold", ["host", "device"])
def test_what_was_taken_may_be_changed(opened, hold):
    images = Images(opened, opened.pool, "cpu", hold)
    before = images[:].clone()
    images[:].zero_()
    images[torch.arange(5)].zero_()
    assert torch.equal(images[:], before)


def test_no_images_can_be_held(opened):
    assert len(Images(opened, [], "cpu", "device")) == len(Images(opened, [], "cpu", "host")) == 0


@pytest.mark.parametrize("hold", ["host", "device"])
def test_an_unknown_image_is_named(opened, hold):
    with pytest.raises(UserError, match="has no image 'nobody'"):
        Images(opened, ["nobody"], "cpu", hold)[:]


@needs_cuda
def test_a_card_holds_what_it_has_room_for(opened, monkeypatch):
    images = Images(opened, opened.pool, "cuda")
    host = Images(opened, opened.pool, "cuda", "host")
    assert images.held.device.type == "cuda" and host.held is None
    assert torch.equal(images[:], host[:]) and host[:].device.type == "cuda"
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (32 * 32, 1 << 30))
    assert Images(opened, opened.pool, "cuda").held is None


def test_the_room_on_the_current_card_is_asked_for_without_a_device(data, monkeypatch):
    """PyTorch 2.4 refuses torch.device("cuda"), which has no number."""
    asked, opened = [], open_data(data)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: asked.append(device) or (0, 0))
    for name in ("cuda", "cuda:1"):
        Images(opened, opened.pool, name)
    assert asked == [None, 1]
