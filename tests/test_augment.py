"""Random views: image and mask move alike, turns are turns of pixels, and draws are seeded."""

import math

import torch

from segmentation.model import augment


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def scene(count=8, channels=1, height=32, width=48):
    """Smooth random images with a bright disc, and the mask of the disc."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    centres = torch.rand(count, 2, 1, 1, generator=generator(5)) * 10 + 11
    masks = ((y - centres[:, 0]) ** 2 + (x - centres[:, 1] - 8) ** 2 < 64).to(torch.uint8)
    images = masks[:, None].float().expand(-1, channels, -1, -1) * 0.5 + 0.2
    return images.contiguous(), masks


def test_flips_are_exact():
    images = torch.rand(64, 2, 16, 32, generator=generator(1))
    masks = (images[:, 0] > 0.5).to(torch.uint8)
    views = augment.draw(images.shape, "flips", generator())
    moved, moved_masks = views.image(images), views.mask(masks)
    seen = set()
    for image, mask, new, new_mask in zip(images, masks, moved, moved_masks, strict=True):
        for axes in ((), (1,), (2,), (1, 2)):
            if torch.allclose(image.flip(axes), new, atol=1e-4):
                assert torch.equal(mask.flip([axis - 1 for axis in axes]).float(), new_mask)
                seen.add(axes)
                break
        else:
            raise AssertionError("not a flip")
    assert len(seen) == 4


def test_image_and_mask_move_alike():
    images, masks = scene()
    views = augment.draw(images.shape, "all", generator(3))
    moved, moved_masks = views.image(images), views.mask(masks)
    assert set(moved_masks.unique().tolist()) == {0.0, 1.0}
    assert (moved >= 0).all() and (moved <= 1).all()
    for image, mask in zip(moved, moved_masks, strict=True):
        found = image[0] > (image.min() + image.max()) / 2
        assert (found == mask.bool()).float().mean() > 0.97
    assert sum(not torch.equal(*pair) for pair in zip(moved_masks, masks.float(), strict=True)) > 5


def test_turns_are_turns_of_pixels():
    """In pixels, every map is an orthogonal matrix times the zoom, whatever the sides."""
    height, width = 32, 48
    views = augment.draw((200, 1, height, width), "all", generator())
    to_pixels = torch.diag(torch.tensor([width / 2, height / 2]))
    pixels = to_pixels @ views.maps[:, :, :2] @ to_pixels.inverse()
    squared = pixels.transpose(1, 2) @ pixels
    zoom = squared[:, 0, 0].sqrt()
    assert torch.allclose(squared, zoom[:, None, None] ** 2 * torch.eye(2), atol=1e-4)
    assert zoom.min() >= 1 / augment.SCALE - 1e-4 and zoom.max() <= augment.SCALE + 1e-4
    assert zoom.min() < 0.85 and zoom.max() > 1.18
    angle = torch.atan2(pixels[:, 1, 0], pixels[:, 0, 0])
    assert angle.min() < -0.9 * math.pi and angle.max() > 0.9 * math.pi
    assert views.maps[:, :, 2].abs().max() <= 2 * augment.SHIFT
    assert 50 < (torch.linalg.det(pixels) < 0).sum() < 150  # mirrored
    assert 60 < torch.isclose(zoom, torch.ones(())).sum() < 140  # half are only flipped


def test_light_changes_contrast_and_brightness():
    images = torch.rand(6, 3, 16, 16, generator=generator(2)) * 0.4 + 0.3
    plain = augment.draw(images.shape, "flips", generator())
    assert torch.equal(plain.image(images), plain.move(images, "bilinear"))
    lit = augment.draw(images.shape, "light", generator())
    assert torch.equal(lit.maps, plain.maps)
    moved = lit.move(images, "bilinear")
    means = moved.mean(dim=(1, 2, 3), keepdim=True)
    expected = lit.contrast * (moved - means) + means + lit.shift
    assert torch.allclose(lit.image(images), expected.clamp(0, 1))
    assert not torch.allclose(lit.image(images), moved, atol=0.01)
    assert (lit.shift[:, 0] != lit.shift[:, 1]).all()


def test_levels_share_the_draws_of_what_they_share():
    maps = [augment.draw((16, 1, 16, 16), level, generator()).maps for level in augment.LEVELS]
    assert torch.equal(maps[1], maps[2]) and not torch.equal(maps[2], maps[3])
    assert torch.equal(maps[0], torch.eye(2, 3).expand(16, 2, 3))
    again = augment.draw((16, 1, 16, 16), "all", generator()).maps
    other = augment.draw((16, 1, 16, 16), "all", generator(1)).maps
    assert torch.equal(maps[3], again) and not torch.equal(again, other)
