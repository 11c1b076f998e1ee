"""Lists of images that a user gives: groups for --group, and the test set for --test-list."""

import csv
import hashlib
import io
import json

from segmentation.common.runfiles import UserError, read_json
from segmentation.data.ids import index, plain, shown

FOLDER = "folder"  # --group folder


def few(names, most=3):
    """The length of a list and its first entries, as text."""
    names = [name if isinstance(name, str) else " = ".join(name) for name in names]
    more = ", ..." if len(names) > most else ""
    return f"{len(names)} ({', '.join(names[:most])}{more})" if names else "none"


def read_text(path):
    """The text of a file; UserError if there is none or it is not UTF-8."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: not found; give an existing file") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not UTF-8 text; save it as UTF-8") from None


def finder(sources):
    """Function: any name of an image, blanks around it allowed -> its id, or None if unknown."""
    known = index({source.id: source.image_name for source in sources})
    return lambda name: known.get(plain(name)) or known.get(plain(name.strip()))


def by_folder(sources):
    """Dict id -> group: the first folder below the image folder; an image in none has no group."""
    return {s.id: s.id.partition("/")[0] for s in sources if "/" in s.id}


def read_groups(path, sources):
    """Read a table with the columns image and group: (dict id -> group, names of unknown images).

    An image is named as in `ids.index`. Columns are parted by commas, or by semicolons as some
    spreadsheets write them. Rows with an empty group are left out. UserError: no such columns, or
    an image in two groups.
    """
    text = read_text(path)
    header = text.partition("\n")[0]
    delimiter = ";" if ";" in header else ","
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    find = finder(sources)
    group_of, unknown = {}, []
    try:
        reader.fieldnames = [name.strip().lower() for name in reader.fieldnames or ()]
        if not {"image", "group"} <= set(reader.fieldnames):
            raise UserError(f"{path}: has no columns image and group; write them in its first line")
        for row in reader:
            name, group = row["image"] or "", plain((row["group"] or "").strip())
            owner = find(name)
            if not name.strip() or not group:
                continue
            if owner is None:
                unknown.append(shown(name))
            elif group_of.setdefault(owner, group) != group:
                raise UserError(
                    f"{path}: has {owner} in the groups {group_of[owner]} and {group}; keep one"
                )
    except csv.Error as error:
        raise UserError(f"{path}: not readable as CSV ({error}); save it again as CSV") from None
    return group_of, sorted(set(unknown))


def read_test_list(path, sources):
    """The ids that a text file lists, one per line, or the test images of a splits.json: a set.

    An image is named as in `ids.index`. UserError names images that are not among the sources.
    """
    if path.suffix.lower() == ".json":
        splits = read_json(path, fix="give the splits.json of a data folder")
        if not isinstance(splits.get("test"), list):
            raise UserError(f"{path}: has no list of test images; give a data folder's splits.json")
        names = [str(name) for name in splits["test"] + splits.get("waiting", [])]
    else:
        names = [line.rstrip("\r") for line in read_text(path).split("\n") if line.strip()]
    found = dict(zip(names, map(finder(sources), names), strict=True))
    unknown = [shown(name) for name, owner in found.items() if owner is None]
    if unknown:
        raise UserError(
            f"{path}: lists images that are not in the image folder: {few(unknown, 20)}; "
            "add them there, or take them off the list"
        )
    if not found:
        raise UserError(f"{path}: lists no images; write the id of one image per line")
    return {owner for owner in found.values() if owner is not None}


def digest(content):
    """Hex SHA-256 of anything that JSON can hold."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
