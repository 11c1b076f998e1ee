"""What became of every file in the folders of images and masks: files.csv, and problems."""

from collections import Counter
from typing import NamedTuple

from segmentation.common.runfiles import UserError, read_csv, write_csv
from segmentation.data.ids import shown

OUTCOMES = {  # and the plural
    "image": "images",
    "mask": "masks",
    "mask without image": "masks without image",
    "skipped": "skipped",
}
HIDDEN, NO_PICTURE, SUPERPIXELS = "hidden", "not a picture", "superpixels"
MASK_FOLDER, BAD_NAME, BROKEN = "in a folder of masks", "name is not UTF-8", "not a file"
KINDS = (HIDDEN, NO_PICTURE, SUPERPIXELS, MASK_FOLDER, BAD_NAME, BROKEN)  # beginnings of notes


class Line(NamedTuple):
    """One line of files.csv."""

    file: str  # its path below its folder: images/..., masks/..., test-images/... or test-masks/...
    outcome: str  # one of OUTCOMES
    id: str  # of the image, or of the image that a mask belongs to; empty for other files
    notes: str  # why it was skipped, and what else there is to know; parted by "; "


class Problem(NamedTuple):
    """A file that cannot be used, as an image or as a mask."""

    file: str  # as in Line
    place: str  # the path to the file, or to the first of several with one problem, for messages
    id: str
    reason: str  # and the mend
    sha256: str | None = None  # of the file, if it was read


def refuse(heading, lines):
    """Raise a UserError of these lines; `heading` says how many there are if there are several."""
    if len(lines) == 1:
        raise UserError(lines[0])
    raise UserError("\n  ".join([f"{len(lines)} {heading}:", *lines]))


def reason_of(error, path):
    """What a UserError about the file `path` says, without the path before it."""
    return shown(str(error)).removeprefix(f"{shown(str(path))}: ")


def refuse_problems(problems):
    """Raise the UserError for files that cannot be used, one line each (one for rival masks)."""
    lines = [f"{problem.place}: {problem.reason}" for problem in sorted(problems)]
    fix = "mend or remove them, or give --skip-bad to go on without them"
    refuse(f"files cannot be used; {fix}", list(dict.fromkeys(lines)))


def add_note(line, note):
    """A Line with another note."""
    return line._replace(notes="; ".join(filter(None, (line.notes, note))))


def kind_of(file):
    """images or masks, for a `Line.file`."""
    return file.partition("/")[0].removeprefix("test-")


def settle(lines, notes, problems):
    """The lines after reading: with the `notes`, (file, note) pairs, and the problems' reasons."""
    reasons = {problem.file: problem.reason for problem in problems}
    unread = {problem.id for problem in problems if kind_of(problem.file) == "images"}
    for line in lines:
        if line.outcome == "mask" and line.id in unread:
            reasons[line.file] = "its image is not readable"
    more = {}  # file -> notes
    for file, note in notes:
        more.setdefault(file, []).append(note)
    settled = []
    for line in lines:
        if line.file in reasons:
            line = line._replace(outcome="skipped", notes=reasons[line.file])
        settled.append(add_note(line, "; ".join(more.get(line.file, ()))))
    return settled


def write_lines(path, lines):
    """Write files.csv, sorted by file; nothing if there are no files (--demo)."""
    if lines:
        write_csv(path, [line._asdict() for line in sorted(lines)])


def read_lines(path):
    """The lines of files.csv; none if there is no such file (--demo, or made by older code)."""
    return [Line(**row) for row in read_csv(path)] if path.exists() else []


def refresh(path, lines: list[Line]):
    """Bring files.csv up to date where the files that are neither image nor mask have changed.

    What reading an image or a mask has shown stays as it is there.
    """
    old = read_lines(path)
    known = {line.file: line for line in old}
    now = sorted(
        known.get(line.file, line) if line.outcome in ("image", "mask") else line for line in lines
    )
    if old and now != old:
        write_lines(path, now)


def noted_masks(lines):
    """Note -> files of the masks that have it, such as that a mask is empty; most files first."""
    found = {}
    for line in lines:
        for note in line.notes.split("; ") if line.outcome == "mask" and line.notes else ():
            found.setdefault(note, []).append(line.file)
    return dict(sorted(found.items(), key=lambda item: -len(item[1])))


def counts(lines):
    """The numbers of files by outcome and, of the skipped ones, by kind, as text."""
    number = Counter(line.outcome for line in lines)
    kinds = Counter(
        next((kind for kind in KINDS if line.notes.startswith(kind)), "not usable")
        for line in lines
        if line.outcome == "skipped"
    )
    text = ", ".join(
        f"{number[one]} {one if number[one] == 1 else more}" for one, more in OUTCOMES.items()
    )
    why = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    return f"{text} ({why})" if why else text
