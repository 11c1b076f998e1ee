"""Ids of images: from the names of files, and back to file names that fit into one folder."""

import hashlib
import unicodedata
from collections import Counter
from pathlib import PurePosixPath

KEPT = " -_.()"  # in flat names, beside letters and digits
LONGEST = 180  # bytes of a flat name; file systems allow 255, with _segmentation.png and the like
RESERVED = {"CON", "PRN", "AUX", "NUL"}  # names of devices on Windows, whatever the ending
RESERVED |= {f"{port}{number}" for port in ("COM", "LPT") for number in range(10)}


def shown(text):
    """`text` as one line that every file and terminal takes.

    Control characters and line breaks become escapes such as `\\n`, and bytes of a file name that
    are not UTF-8 become `\\xe9` and the like.
    """
    if text.isprintable():
        return text
    return "".join(
        f"\\x{ord(sign) - 0xDC00:02x}"
        if "\udc80" <= sign <= "\udcff"
        else sign.encode("unicode_escape").decode()
        if unicodedata.category(sign) in ("Cc", "Cs", "Zl", "Zp")
        else sign
        for sign in text
    )


def plain(text):
    """A name in the one spelling that ids have: composed (NFC), control characters escaped.

    macOS writes an accented letter as a letter and an accent (NFD), others as one character (NFC).
    """
    return shown(unicodedata.normalize("NFC", text))


def id_of(name):
    """The id of the file `name`, a path below its folder with `/`: the `plain` path, no ending."""
    return plain(str(PurePosixPath(name).with_suffix("")))


def bare(name):
    """The part of an id or of a file name after its last folder."""
    return name.rpartition("/")[2]


def flat_name(name):
    """An id as a file name without ending, for one folder that holds copies of all images.

    Different ids have different flat names. `/` becomes `__`; letters and digits of any script,
    blanks and `-_.()` stay; anything else becomes `~` and the hexadecimal value of each UTF-8 byte.
    So do a `_` that would make `__` ambiguous, a first character that hides a file or looks like an
    option, and the first letter of a device's name on Windows. A name of more than LONGEST bytes is
    cut and ends with `~~` and a hash of the id.
    """
    device = name.partition(".")[0].upper() in RESERVED
    signs = []
    for place, sign in enumerate(name):
        before, after = name[place - 1 : place], name[place + 1 : place + 2]
        kept = sign.isalnum() or sign in KEPT
        if place == 0:
            kept = kept and sign not in " -." and not device
        if sign == "_":
            kept = before not in ("_", "/") and after != "/"
        if sign == "/":
            signs.append("__")
        elif kept:
            signs.append(sign)
        else:
            signs.append("".join(f"~{byte:02X}" for byte in sign.encode()))
    flat = "".join(signs)
    if len(flat.encode()) <= LONGEST:
        return flat
    digest = hashlib.sha256(name.encode()).hexdigest()[:16]
    return f"{flat.encode()[: LONGEST - 18].decode(errors='ignore')}~~{digest}"


def unique(pairs):
    """Dict from (name, id) pairs, without the names that belong to several ids."""
    pairs = set(pairs)
    counts = Counter(name for name, _ in pairs)
    return {name: owner for name, owner in pairs if counts[name] == 1}


def index(files):
    """Dict from every way to name an image to its id; `files` maps id -> file name with folders.

    An image can be named by its id or its file name, and by either without folders if no other
    image has that name.
    """
    files = {owner: plain(name) for owner, name in files.items()}
    return {
        **unique((bare(owner), owner) for owner in files),
        **unique((bare(name), owner) for owner, name in files.items()),
        **{name: owner for owner, name in files.items()},
        **{owner: owner for owner in files},
    }
