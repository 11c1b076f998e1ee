"""Read a picture file of any format, and say what was done to it and why another cannot be read."""

import functools
import hashlib
import io
from typing import NamedTuple

import simplejpeg
from PIL import Image, ImageOps

from segmentation.common.runfiles import UserError
from segmentation.data.ids import shown

DAMAGED = "its JPEG data are damaged, so that a part may look wrong"


class Photo(NamedTuple):
    """A picture file that has been read."""

    picture: Image.Image  # turned by its EXIF orientation
    sha256: str  # of the file
    notes: tuple  # of text, on what was done to it
    bits: int  # per channel in the file; 8 stands for 8 or fewer


@functools.cache
def register_heif():
    """Let Pillow read HEIC and HEIF; imported only when such a file is there."""
    import pillow_heif

    pillow_heif.register_heif_opener()


def bits_per_channel(picture):
    """Of an opened Pillow image that is not loaded yet; 8 stands for 8 or fewer.

    Pillow reads 16-bit colours as 8 bits without a word, and separate planes of them wrongly.
    """
    if picture.format == "TIFF":
        bits = picture.tag_v2.get(258, 8)  # BitsPerSample, one number or several
        return max(8, bits) if isinstance(bits, int) else max(8, *bits)
    deep = picture.mode[0] in "IF" or any(";16" in str(tile) for tile in picture.tile)
    return 16 if deep else 8


def frame_note(picture):
    """A note on further pictures in a file, "" if there are none. ValueError for pages.

    In MPO (JPEG of cameras), HEIF and PNG the picture that opens is the one that all programs show.
    """
    count = getattr(picture, "n_frames", 1)
    if count > 1 and picture.format not in ("MPO", "HEIF", "PNG"):
        what = "pages" if picture.format == "TIFF" else "frames"
        raise ValueError(f"has {count} {what} instead of one picture")
    return f"one of {count} pictures in its file" if count > 1 else ""


def is_damaged_jpeg(content):
    """Whether libjpeg warns of what it skips or makes up in a JPEG file; Pillow does not tell.

    `content` is the file as bytes. What this decoder does not know is not taken for damage.
    """
    eighth = {"min_height": 1, "min_width": 1, "min_factor": 8}  # the quickest
    try:
        simplejpeg.decode_jpeg(content, "GRAY", strict=True, **eighth)
    except ValueError as error:
        return "color conversion" not in str(error)
    return False


def why_unreadable(error, content):
    """The reason, as text, why Pillow raised `error` for a file of these bytes."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.strerror
    if not content:
        return "it is empty"
    if isinstance(error, Image.UnidentifiedImageError):
        if content[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            return "a kind of TIFF that Pillow does not know; it needs 8 bits in 1 or 3 channels"
        return "not a picture"
    return shown(str(error).split("\n")[0]) or type(error).__name__


def load(path):
    """Read a picture file of any format -> Photo.

    UserError if the file is missing, damaged, truncated or unreasonably large, or if it holds
    several pages or frames.
    """
    content = b""
    try:
        content = path.read_bytes()
        if content[4:8] == b"ftyp":
            register_heif()
        picture = Image.open(io.BytesIO(content))
        notes, bits = [frame_note(picture)], bits_per_channel(picture)
        turn = picture.getexif().get(274, 1)  # asked first, as loading a TIFF turns it
        turn = picture.info.get("original_orientation") or turn  # of HEIC, turned on opening
        picture.load()
        ImageOps.exif_transpose(picture, in_place=True)
    except Exception as error:  # Pillow raises a dozen kinds for damaged files
        reason = why_unreadable(error, content)
        raise UserError(
            f"{shown(str(path))}: not readable ({reason}); replace or remove it"
        ) from None
    if turn in range(2, 9):
        notes.append("turned as its EXIF data say")
    if picture.format in ("JPEG", "MPO") and is_damaged_jpeg(content):
        notes.append(DAMAGED)
    if picture.format == "HEIF" and picture.info.get("bit_depth", 8) > 8:
        notes.append(f"its {picture.info['bit_depth']} bits per channel read as 8")
    return Photo(picture, hashlib.sha256(content).hexdigest(), tuple(filter(None, notes)), bits)


def decode(path):
    """`load` a picture: (Pillow image, sha256 of the file)."""
    return load(path)[:2]


def read_photo(path):
    """Read an image as 8-bit RGB -> Photo. UserError as in load, and for more than 8 bits."""
    photo = load(path)
    if photo.bits > 8:
        raise UserError(
            f"{shown(str(path))}: has more than 8 bits per channel; convert it to 8 bits"
        )
    if photo.picture.mode == "RGB":
        return photo
    return photo._replace(picture=photo.picture.convert("RGB"))
