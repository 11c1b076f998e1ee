"""masks.py: which pictures count as masks, how they are divided, and which are refused and why."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from segmentation.common.runfiles import UserError, sha256_file
from segmentation.data import masks

SIZE = (60, 80)


def blob(size=SIZE):
    """A round lesion, bool H x W."""
    y, x = np.mgrid[: size[0], : size[1]]
    return (y - size[0] / 2) ** 2 + (x - size[1] / 2.2) ** 2 < (0.3 * size[0]) ** 2


TRUTH = blob()


def soft(truth=TRUTH, sigma=1.2):
    """float H x W in 0..1: a mask with soft edges."""
    return cv2.GaussianBlur(truth.astype(np.float64), (0, 0), sigma)


def painted(inside, outside, truth=TRUTH):
    """uint8 H x W x len(inside): one colour in the lesion, one around it."""
    return np.where(truth[..., None], np.array(inside), np.array(outside)).astype(np.uint8)


def mixed(inside, outside, share):
    """uint8 H x W x C: shades between two colours, `share` of the first."""
    share = share[..., None]
    return np.rint(share * np.array(inside) + (1 - share) * np.array(outside)).astype(np.uint8)


def read(tmp_path, picture, name="m.png", **how):
    """Save a Pillow image or an array and read it as a mask."""
    picture = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    picture.save(tmp_path / name, **how)
    mask = masks.read_mask(tmp_path / name, (picture.height, picture.width))
    assert mask.values.dtype == bool and mask.sha256 == sha256_file(tmp_path / name)
    return mask


def refusal(tmp_path, picture, name="m.png", **how):
    """The reason for which a picture is refused."""
    with pytest.raises(UserError) as error:
        read(tmp_path, picture, name, **how)
    assert str(error.value).startswith(f"{tmp_path / name}: ")
    assert str(error.value).endswith("save the mask as PNG with 0 for skin and 255 for lesion")
    return str(error.value)


# Accepted ---------------------------------------------------------------------------------------

EXACT = {
    "m.png": TRUTH.astype(np.uint8) * 255,
    "one.png": TRUTH.astype(np.uint8),
    "m.tif": TRUTH.astype(np.uint8) * 255,
    "deep.tiff": TRUTH.astype(np.uint16) * 65535,
    "deep_one.tif": TRUTH.astype(np.uint16),
    "deep_255.tif": TRUTH.astype(np.uint16) * 255,
    "bilevel.tif": TRUTH,
    "rgb.tif": painted([255] * 3, [0] * 3),
    "m.bmp": TRUTH.astype(np.uint8) * 255,
}


@pytest.mark.parametrize("name", EXACT)
def test_exact_masks_have_no_notes(tmp_path, name):
    mask = read(tmp_path, EXACT[name], name)
    assert np.array_equal(mask.values, TRUTH) and mask.notes == []


def test_lossless_webp(tmp_path):
    for picture in (painted([255] * 3, [0] * 3), painted([255] * 4, [0, 0, 0, 255])):
        mask = read(tmp_path, picture, "m.webp", lossless=True, exact=True)
        assert np.array_equal(mask.values, TRUTH) and mask.notes == []


@pytest.mark.parametrize("top, kind", [(255, np.uint8), (65535, np.uint16)])
@pytest.mark.parametrize("name", ["m.png", "m.tif"])
@pytest.mark.parametrize("sigma", [0.6, 1.2, 3])
def test_soft_edges_are_divided_at_half(tmp_path, name, top, kind, sigma):
    values = np.rint(soft(sigma=sigma) * top).astype(kind)
    mask = read(tmp_path, values, name)
    assert np.array_equal(mask.values, values > top / 2)
    (note,) = mask.notes
    assert f"soft edges ({((values > 0) & (values < top)).sum()} pixels)" in note
    assert f"half of {top}" in note


def test_a_soft_edge_of_one_level(tmp_path):
    values = np.zeros(SIZE, np.uint8)
    values[10:40, 10:41], values[10:40, 10] = 255, 127
    mask = read(tmp_path, values)
    assert np.array_equal(mask.values, values == 255) and len(mask.notes) == 1


@pytest.mark.parametrize("quality", [50, 75, 95])
@pytest.mark.parametrize("name", ["m.jpg", "m.webp"])
def test_lossy_files_of_grays(tmp_path, name, quality):
    truth = blob((256, 320))
    mask = read(tmp_path, truth.astype(np.uint8) * 255, name, quality=quality)
    square = np.ones((3, 3), np.uint8)
    border = cv2.dilate(truth.astype(np.uint8), square) != cv2.erode(truth.astype(np.uint8), square)
    assert not ((mask.values != truth) & ~border).any()
    assert len(mask.notes) == 1 and "soft edges" in mask.notes[0]


@pytest.mark.parametrize("low, high", [(0, 128), (0, 254), (50, 255), (100, 240)])
def test_two_grays(tmp_path, low, high):
    mask = read(tmp_path, np.where(TRUTH, high, low).astype(np.uint8))
    assert np.array_equal(mask.values, TRUTH)
    assert mask.notes == [
        f"has the values {low} and {high}, not 0 and 255: {high} was read as lesion"
    ]


@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 200, 0), (64, 128, 255), (255, 255, 250)])
def test_a_colour_on_black(tmp_path, colour):
    mask = read(tmp_path, painted(colour, (0, 0, 0)))
    assert np.array_equal(mask.values, TRUTH)
    assert mask.notes == [f"has two colours: rgb{colour} on rgb(0, 0, 0) was read as lesion"]
    share = soft()
    mask = read(tmp_path, mixed(colour, (10, 10, 10), share))
    assert not (mask.values != (share > 0.5))[np.abs(share - 0.5) > 0.01].any()
    assert len(mask.notes) == 2 and "soft edges" in mask.notes[1]


def test_a_palette_of_red_and_black_with_other_indices(tmp_path):
    picture = Image.fromarray((TRUTH * 3 + 2).astype(np.uint8), "P")
    picture.putpalette([9, 9, 9] * 2 + [0, 0, 0] + [9, 9, 9] * 2 + [255, 0, 0])
    mask = read(tmp_path, picture)
    assert np.array_equal(mask.values, TRUTH) and "rgb(255, 0, 0) on" in mask.notes[0]


def test_a_palette_that_colours_its_indices_the_other_way(tmp_path):
    picture = Image.fromarray(TRUTH.astype(np.uint8), "P")
    picture.putpalette([255, 0, 0, 0, 0, 0])
    mask = read(tmp_path, picture)
    assert np.array_equal(mask.values, TRUTH) and "opposite" in mask.notes[0]
    picture.putpalette([0, 0, 0, 255, 0, 0])
    assert read(tmp_path, picture).notes == []


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (220, 30, 60)])
@pytest.mark.parametrize("top", [255, 128, 60])
def test_the_alpha_channel(tmp_path, colour, top):
    for outside in (colour, (0, 0, 0), (255, 255, 255)):  # what hides below transparent pixels
        mask = read(tmp_path, painted((*colour, top), (*outside, 0)))
        assert np.array_equal(mask.values, TRUTH)
        assert len(mask.notes) == 1 and "alpha channel" in mask.notes[0]
    share = soft()
    alpha = np.rint(share * top).astype(np.uint8)
    mask = read(tmp_path, np.dstack([painted(colour, colour), alpha]), "m.tif")
    assert np.array_equal(mask.values, alpha > top / 2) and "soft edges" in mask.notes[1]


def test_alpha_of_gray_of_a_palette_and_of_webp(tmp_path):
    gray = Image.fromarray(painted((90, 255), (90, 0)), "LA")
    assert np.array_equal(read(tmp_path, gray).values, TRUTH)
    picture = Image.fromarray((TRUTH * 3 + 2).astype(np.uint8), "P")
    picture.putpalette([7, 7, 7] * 6)
    mask = read(tmp_path, picture, transparency=bytes([255, 255, 0, 255, 255, 255]))
    assert np.array_equal(mask.values, TRUTH) and "alpha" in mask.notes[0]
    layers = painted((200, 0, 0, 255), (0, 0, 0, 0))
    assert np.array_equal(read(tmp_path, layers, "m.webp", lossless=True).values, TRUTH)


def test_nothing_drawn_on_a_transparent_page(tmp_path):
    mask = read(tmp_path, np.zeros((*SIZE, 4), np.uint8))
    assert not mask.values.any() and mask.notes[1] == "is empty: no lesion"


def test_the_mask_is_turned_like_its_image(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    stored = Image.fromarray(np.rot90(TRUTH).astype(np.uint8) * 255)
    for name in ("m.png", "m.tif", "m.webp"):
        stored.save(tmp_path / name, exif=exif, **({"lossless": True} if "webp" in name else {}))
        assert np.array_equal(masks.read_mask(tmp_path / name, SIZE).values, TRUTH), name


# Refused ----------------------------------------------------------------------------------------


def noise(channels, size=SIZE):
    shape = (*size, channels) if channels > 1 else size
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def with_square(values, value):
    values = values.copy()
    values[3:9, 3:9] = value
    return values


REFUSED = {
    "gray noise": (noise(1), "% of its pixels neither dark nor bright, as in a photograph"),
    "colour noise": (noise(3), "more than two colours: rgb("),
    "all gray": (np.full(SIZE, 99, np.uint8), "has the value 99 everywhere"),
    "all red": (painted((255, 0, 0), (255, 0, 0)), "most common is rgb(255, 0, 0)"),
    "class numbers": (TRUTH.astype(np.uint8) * 2, "values 0 and 2, which may be numbers"),
    "three classes": (
        with_square(TRUTH.astype(np.uint8), 2),
        "no value near 255; the highest is 2",
    ),
    "an ignored area": (with_square(TRUTH.astype(np.uint8), 255), "third value, 1, beside 0 and"),
    "a third gray": (with_square(TRUTH.astype(np.uint8) * 255, 128), "third value, 128, beside 0"),
    "dark": (np.rint(soft() * 90).astype(np.uint8), "no value near 255; the highest is 90"),
    "three colours": (
        with_square(painted((255, 0, 0), (0, 0, 0)), (0, 0, 255)),
        "more than two colours: rgb(0, 0, 0), rgb(255, 0, 0) and, not between them, rgb(0, 0, 255)",
    ),
    "a shade as area": (
        with_square(painted((200, 0, 0), (0, 0, 0)), (100, 0, 0)),
        "areas of a third value, 128",
    ),
    "red on white": (painted((255, 0, 0), (255, 255, 255)), "either could be the lesion"),
    "white on blue": (painted((255, 255, 255), (0, 0, 255)), "either could be the lesion"),
    "similar colours": (painted((90, 60, 60), (60, 60, 60)), "no two colours that differ clearly"),
    "half transparent": (painted((255, 255, 255, 128), (0, 0, 0, 128)), "in colour and in tr"),
    "veiled": (painted((9, 9, 9, 128), (9, 9, 9, 128)), "half transparency everywhere"),
    "both": (with_square(painted((255,) * 4, (0, 0, 0, 255)), 0), "in colour and in transparency"),
    "fractions": (soft().astype(np.float32), "has fractional numbers as values"),
    "too large": (TRUTH.astype(np.int32) * 70000, "values from 0 to 70000"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refusals_give_the_reason(tmp_path, kind):
    picture, reason = REFUSED[kind]
    name = "m.tif" if picture.dtype in (np.float32, np.int32) else "m.png"
    assert reason in refusal(tmp_path, picture, name)


def test_jpeg_in_colours(tmp_path):
    assert "more than two colours" in refusal(tmp_path, painted((255, 0, 0), (0, 0, 0)), "m.jpg")


def test_a_photograph_is_refused_also_as_jpeg(tmp_path):
    y, x = np.mgrid[:256, :256]
    shade = 140 + 70 * np.sin(x / 31) * np.cos(y / 23)
    photo = np.dstack([shade + 40, shade, shade - 20]) - 80 * blob((256, 256))[..., None]
    photo = np.clip(photo, 0, 255).astype(np.uint8)
    for picture in (photo, photo[..., 0]):
        for name in ("m.jpg", "m.png", "m.webp"):
            assert "has " in refusal(tmp_path, picture, name)


def test_several_pictures_in_a_file(tmp_path):
    one = Image.fromarray(TRUTH.astype(np.uint8) * 255)
    for name in ("m.tif", "m.webp"):
        pages = [Image.fromarray((~TRUTH).astype(np.uint8) * 255)]
        how = {"lossless": True} if "webp" in name else {}
        with pytest.raises(UserError, match="has 2 (pages|frames) instead of one picture"):
            read(tmp_path, one, name, save_all=True, append_images=pages, **how)


def test_a_tiff_in_which_zero_is_white(tmp_path):
    shown = Image.fromarray(TRUTH.astype(np.uint16) * 60000)
    assert "in which 0 is white" in refusal(tmp_path, shown, "m.tif", tiffinfo={262: 0})


def test_wrong_size_and_damage(tmp_path):
    Image.fromarray(TRUTH).save(tmp_path / "m.png")
    with pytest.raises(UserError, match=r"m\.png: is 60x80, but its image is 80x60 \(height x"):
        masks.read_mask(tmp_path / "m.png", SIZE[::-1])
    content = (tmp_path / "m.png").read_bytes()
    (tmp_path / "m.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"m\.png: not readable \("):
        masks.read_mask(tmp_path / "m.png", SIZE)


# Notes on what the mask shows -------------------------------------------------------------------


def test_remarks():
    assert masks.remarks(TRUTH) == []
    assert masks.remarks(np.zeros(SIZE, bool)) == ["is empty: no lesion"]
    assert masks.remarks(np.ones(SIZE, bool)) == ["covers the whole image"]
    assert "looks inverted" in masks.remarks(~TRUTH)[0]
    large = np.ones(SIZE, bool)
    large[:20, :20] = False  # a large lesion over most of the border
    assert masks.remarks(large) == []
    half = np.zeros(SIZE, bool)
    half[:, :35] = True  # half a border is not most of it
    assert masks.remarks(half) == []
    for size in ((1, 1), (1, 5), (2, 2), (3, 1)):
        one = np.zeros(size, bool)
        one[0, 0] = True
        masks.remarks(one)


# Real masks -------------------------------------------------------------------------------------


def real(variable, pattern):
    folder = os.environ.get(variable)
    if not folder:
        pytest.skip(f"{variable} does not name a folder of real images")
    return sorted(Path(folder).glob(pattern))


def test_real_masks_are_exact_and_few_look_inverted():
    paths = real("SAAL_ISIC2017", "*GroundTruth/*.png")
    noted = caught = 0
    for path in paths:
        values = np.asarray(Image.open(path)) == 255
        mask = masks.read_mask(path, values.shape)
        assert np.array_equal(mask.values, values)
        noted += bool(mask.notes)
        caught += "looks inverted" in "".join(masks.remarks(~values))
    assert len(paths) == 2000
    assert noted <= 0.01 * len(paths) and caught >= 0.95 * len(paths)


def test_real_photographs_are_no_masks(tmp_path):
    for path in real("SAAL_ISIC2017", "*Data/*.jpg")[::40]:
        gray = Image.open(path).convert("L")
        gray.save(tmp_path / "gray.png")
        for picture in (path, tmp_path / "gray.png"):
            with pytest.raises(UserError, match="save the mask as PNG"):
                masks.read_mask(picture, (gray.height, gray.width))
