"""Reading pictures: every format, what is noted, what is refused, and why."""

import io

import cv2
import numpy as np
import pillow_heif
import pytest
import tifffile
from PIL import Image

from segmentation.common.runfiles import UserError
from segmentation.data.photos import DAMAGED, load, read_photo
from tests.helpers_preprocess import picture

QUARTER = Image.Exif()
QUARTER[274] = 6  # to be turned clockwise


def smooth(size=(40, 48)):
    """A uint8 picture h x w x 3 that lossy formats change little."""
    y, x = np.mgrid[: size[0], : size[1]]
    return np.stack([3 * y, 4 * x, 128 + y - x], 2).astype(np.uint8)


def heif(path, array, **options):
    """Write HEIC by pillow-heif's own function, without Pillow."""
    mode = "RGB;16" if array.dtype == np.uint16 else "RGB"
    size = array.shape[1::-1]
    pillow_heif.encode(mode, size, array.tobytes(), path, quality=100, **options)
    return path


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "a.TIFF", "b.tif"])
def test_lossless_formats_give_the_pixels(tmp_path, name):
    array = picture(1)
    if name == "b.tif":
        tifffile.imwrite(tmp_path / name, array, photometric="rgb")
    elif name.lower().startswith("a.tif"):
        Image.fromarray(array).save(tmp_path / name, compression="tiff_lzw")
    else:
        cv2.imwrite(str(tmp_path / name), array[..., ::-1])
    photo = read_photo(tmp_path / name)
    assert np.array_equal(np.asarray(photo.picture), array) and photo.notes == ()


def test_webp(tmp_path):
    flags = [cv2.IMWRITE_WEBP_QUALITY, 101]  # lossless
    cv2.imwrite(str(tmp_path / "a.webp"), picture(1)[..., ::-1], flags)
    assert np.array_equal(np.asarray(read_photo(tmp_path / "a.webp").picture), picture(1))


@pytest.mark.parametrize("name", ["a.heic", "a.HEIF", "a.jpg"])  # by content, not by ending
def test_heic(tmp_path, name):
    photo = read_photo(heif(tmp_path / name, smooth()))
    assert photo.picture.mode == "RGB" and photo.notes == ()
    assert np.abs(np.asarray(photo.picture).astype(int) - smooth()).mean() < 3


def test_heic_of_ten_bits_is_scaled_and_noted(tmp_path):
    photo = read_photo(heif(tmp_path / "a.heic", smooth().astype(np.uint16) * 257))
    assert np.abs(np.asarray(photo.picture).astype(int) - smooth()).mean() < 3
    assert photo.notes == ("its 10 bits per channel read as 8",)


def test_heic_with_further_pictures(tmp_path):
    file = pillow_heif.from_pillow(Image.fromarray(smooth()))
    file.add_from_pillow(Image.fromarray(255 - smooth()))
    file.save(tmp_path / "a.heic", quality=100)
    photo = read_photo(tmp_path / "a.heic")
    assert photo.notes == ("one of 2 pictures in its file",)
    assert np.abs(np.asarray(photo.picture).astype(int) - smooth()).mean() < 3


def test_mpo_of_a_camera_is_its_first_picture(tmp_path):
    more = [Image.fromarray(255 - smooth())]
    first = Image.fromarray(smooth())
    first.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=more, quality=100)
    photo = read_photo(tmp_path / "a.jpg")
    assert photo.notes == ("one of 2 pictures in its file",)
    assert np.abs(np.asarray(photo.picture).astype(int) - smooth()).mean() < 6


SORTS = {
    "plain": ("RGB", {}),
    "gray": ("L", {}),
    "of print": ("CMYK", {}),
    "progressive": ("RGB", {"progressive": True}),
    "with restarts": ("RGB", {"restart_marker_rows": 1}),
    "fine": ("RGB", {"quality": 100, "subsampling": 0}),
}


@pytest.mark.parametrize("sort", SORTS)
def test_jpegs_with_other_bytes_inside_are_noted(tmp_path, sort):
    mode, options = SORTS[sort]
    path, rng = tmp_path / "a.jpg", np.random.default_rng(0)
    noise = rng.integers(0, 256, (128, 128, 3), dtype=np.uint8)
    Image.fromarray(noise).convert(mode).save(path, **options)
    whole, found, refused = path.read_bytes(), 0, 0
    assert read_photo(path).notes == ()
    path.write_bytes(whole + b"after the end")  # as some cameras write
    assert read_photo(path).notes == ()
    places = rng.integers(len(whole) // 4, len(whole) - 300, 25)
    for place in places.tolist():
        path.write_bytes(whole[:place] + rng.bytes(200) + whole[place + 200 :])
        try:
            found += read_photo(path).notes == (DAMAGED,)
        except UserError as error:
            assert "not readable" in str(error)
            refused += 1
    assert found and found + refused >= 23


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif", "a.webp", "a.heic"])
def test_pictures_turned_by_exif_are_noted(tmp_path, name):
    upright = smooth((32, 64))
    stored = Image.fromarray(np.rot90(upright).copy())
    if name == "a.heic":
        pillow_heif.register_heif_opener()
    stored.save(tmp_path / name, exif=QUARTER.tobytes(), quality=100)
    photo = read_photo(tmp_path / name)
    assert photo.notes == ("turned as its EXIF data say",)
    assert np.abs(np.asarray(photo.picture).astype(int) - upright).mean() < 6
    stored.save(tmp_path / name, quality=100)
    assert read_photo(tmp_path / name).notes == ()


DEEP = {
    "gray16.tif": lambda path: tifffile.imwrite(path, np.full((40, 48), 3000, np.uint16)),
    "rgb16.tif": lambda path: tifffile.imwrite(
        path, picture(0).astype(np.uint16) * 16, photometric="rgb"
    ),
    "planes16.tif": lambda path: tifffile.imwrite(
        path,
        np.moveaxis(picture(0), 2, 0).astype(np.uint16) * 16,
        photometric="rgb",
        planarconfig="separate",
    ),
    "packed16.tif": lambda path: tifffile.imwrite(
        path, picture(0).astype(np.uint16) * 16, photometric="rgb", compression="zlib"
    ),
    "float.tif": lambda path: tifffile.imwrite(path, np.ones((40, 48), np.float32)),
    "gray16.png": lambda path: cv2.imwrite(str(path), np.full((40, 48), 3000, np.uint16)),
    "rgb16.png": lambda path: cv2.imwrite(str(path), picture(0).astype(np.uint16) * 16),
}


@pytest.mark.parametrize("name", DEEP)
def test_more_than_eight_bits_are_refused(tmp_path, name):
    DEEP[name](tmp_path / name)
    with pytest.raises(UserError, match=f"{name}: has more than 8 bits per channel"):
        read_photo(tmp_path / name)
    load(tmp_path / name)  # as a mask it may be fine


def refused(path):
    with pytest.raises(UserError) as error:
        read_photo(path)
    text = str(error.value)
    assert text.startswith(f"{path}: ") and "\n" not in text
    return text


def test_the_true_reason_is_given(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.stack([picture(0)] * 3), photometric="rgb")
    assert "has 3 pages" in refused(path)
    tifffile.imwrite(path, picture(0).astype(np.float32), photometric="rgb")
    assert "a kind of TIFF that Pillow does not know" in refused(path)
    frames = [Image.fromarray(picture(i)) for i in range(2)]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:])
    assert "has 2 frames" in refused(tmp_path / "a.webp")
    path.write_bytes(b"")
    assert "it is empty" in refused(path)
    path.write_bytes(b"Dear reader")
    assert "not a picture" in refused(path)
    assert "No such file" in refused(tmp_path / "none.png")


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
@pytest.mark.parametrize("kind", ["TIFF", "WEBP", "HEIF", "JPEG", "BMP", "PNG"])
def test_damage_is_always_one_line(tmp_path, kind, monkeypatch):
    """Whatever is wrong with a file, there is a picture or a UserError that names it."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10**6)
    pillow_heif.register_heif_opener()
    out, rng = io.BytesIO(), np.random.default_rng(0)
    Image.fromarray(picture(0)).save(out, kind, **({} if kind == "BMP" else {"exif": QUARTER}))
    path, content, bad = tmp_path / "a.jpg", out.getvalue(), 0
    for trial in range(150):
        damaged = bytearray(content)
        for place in rng.integers(0, len(content) if trial % 2 else 200, rng.integers(1, 5)):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged if trial % 3 else damaged[: rng.integers(len(content))])
        try:
            np.asarray(load(path).picture)
        except UserError as error:
            bad += 1
            assert str(error).startswith(f"{path}: not readable (") and "\n" not in str(error)
    assert bad > 10
