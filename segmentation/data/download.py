"""Download the official ISIC 2017 training set: resumable, checked before it is put in place."""

import http.client
import re
import shutil
import stat
import urllib.error
import urllib.request
import zipfile
import zlib
from pathlib import PurePosixPath

from tqdm import tqdm

from segmentation.common.runfiles import UserError, sha256_file, write_text
from segmentation.data.formats import LARGEST
from segmentation.data.sources import picture_files

ISIC_URL = "https://isic-challenge-data.s3.amazonaws.com/2017"
ISIC_FOLDERS = ("ISIC-2017_Training_Data", "ISIC-2017_Training_Part1_GroundTruth")
RECORD = "archives.sha256"  # ISIC publishes no hashes: those of the first download, as by sha256sum


def fetch(url, path):
    """Download `url` to `path`, continuing `path`.part if an earlier call was interrupted.

    The server's ETag (or date) is saved beside the partial file. If the file has changed since, or
    the server does not support ranges, the server sends the whole file and the download starts
    over. UserError on any network failure; the part already received is kept.
    """
    part, tag = (path.with_name(path.name + end) for end in (".part", ".part.tag"))
    have = part.stat().st_size if part.exists() else 0
    headers = {"Range": f"bytes={have}-"} if have else {}
    if have and tag.exists():
        headers["If-Range"] = tag.read_text()
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, headers=headers), timeout=60
        ) as answer:
            if answer.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
                total = int(answer.headers["Content-Range"].rpartition("/")[2])
            else:
                have, total = 0, int(answer.headers.get("Content-Length", 0)) or None
                tag.unlink(missing_ok=True)
                validator = answer.headers.get("ETag") or answer.headers.get("Last-Modified")
                if validator:
                    tag.write_text(validator)
            receive(answer, part, have, total)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code != 416:
            raise UserError(
                f"{url}: {error.code} {error.reason}; check --url, or run again later"
            ) from None
        if error.headers.get("Content-Range") != f"bytes */{have}":  # not part of this file
            part.unlink()
            tag.unlink(missing_ok=True)
            return fetch(url, path)
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise UserError(f"{url}: {reason}; run again to resume") from None
    tag.unlink(missing_ok=True)
    part.rename(path)


def receive(answer, part, have, total):
    """Write the body of an HTTP response to `part` from byte `have`; OSError if it is cut off."""
    with (
        open(part, "r+b" if have else "wb") as file,
        tqdm(
            desc=part.stem, initial=have, total=total, unit="B", unit_scale=True, disable=None
        ) as bar,
    ):
        file.seek(have)
        while chunk := answer.read(1 << 20):
            file.write(chunk)
            bar.update(len(chunk))
        have = file.tell()
    if total and have < total:
        raise OSError(f"the connection ended after {have} of {total} bytes")


def check_entry(archive, entry):
    """UserError if an entry of a zip archive is a link, leads outside the folder, or is huge."""
    if entry.file_size > LARGEST:
        raise UserError(
            f"{archive}: its entry {entry.filename!r} has {entry.file_size >> 20} MB unpacked, "
            f"more than {LARGEST >> 20}; do not use this archive, check --url"
        )
    path = PurePosixPath(entry.filename.replace("\\", "/"))
    link = stat.S_ISLNK(entry.external_attr >> 16)
    if path.is_absolute() or ".." in path.parts or re.match("[A-Za-z]:", str(path)) or link:
        raise UserError(
            f"{archive}: its entry {entry.filename!r} leads outside its folder; "
            "do not use this archive, check --url"
        )


def unpack(archive, folder):
    """Extract a zip archive into `folder`, checking the CRC of each entry on the way.

    UserError if an entry leads outside. A damaged archive is deleted, to be downloaded again.
    """
    try:
        with zipfile.ZipFile(archive) as file:
            entries = file.infolist()
            for entry in entries:
                check_entry(archive, entry)
            for entry in tqdm(entries, desc=archive.name, unit="file", disable=None):
                file.extract(entry, folder)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        archive.unlink()
        raise UserError(f"{archive}: damaged ({error}), now deleted; run again") from None


def check_hashes(archives, record):
    """The lines for `record`, with the SHA-256 of each archive: a text.

    UserError if `record`, of an earlier download, has another for one of them.
    """
    lines = record.read_text().splitlines() if record.exists() else []
    known = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    found = {archive.name: sha256_file(archive) for archive in archives}
    for archive in archives:
        digest = found[archive.name]
        if known.get(archive.name, digest) != digest:
            raise UserError(
                f"{archive}: its SHA-256 is {digest}, not that of the first download, "
                f"{known[archive.name]}; delete {record} if the source has changed it on purpose, "
                "else the archive, and run again"
            )
    return "".join(f"{digest}  {name}\n" for name, digest in found.items())


def download(url, root, expect):
    """Download the official ISIC 2017 training folders into `root`, each with `expect` pictures.

    Both archives are downloaded, unpacked into temporary folders and counted before anything is put
    in place; then the archives are deleted, and archives.sha256 keeps their hashes, which those of
    a later download have to equal. UserError: network failure, an archive that is damaged,
    malicious or another one than before, or a wrong number of files.
    """
    places = [root / name for name in ISIC_FOLDERS]
    if all(place.is_dir() and len(picture_files(place)) == expect for place in places):
        print(f"{root}: {expect} images and their masks are already there")
        return
    root.mkdir(parents=True, exist_ok=True)
    asides = [root / f".{name}.partial" for name in ISIC_FOLDERS]
    archives = [root / f"{name}.zip" for name in ISIC_FOLDERS]
    try:
        unpacked = []
        for aside, archive, place in zip(asides, archives, places, strict=True):
            shutil.rmtree(aside, ignore_errors=True)
            if not archive.exists():
                fetch(f"{url.rstrip('/')}/{archive.name}", archive)
            aside.mkdir()
            unpack(archive, aside)
            inner = aside / place.name
            unpacked.append(inner if inner.is_dir() else aside)
            count = len(picture_files(unpacked[-1]))
            if count != expect:
                raise UserError(
                    f"{archive}: holds {count} pictures, not {expect}; "
                    "delete it and run again, or give this number as --expect if it is right"
                )
        hashes = check_hashes(archives, root / RECORD)
        for source, place in zip(unpacked, places, strict=True):
            shutil.rmtree(place, ignore_errors=True)
            source.rename(place)
        write_text(root / RECORD, hashes)
    finally:
        for aside in asides:
            shutil.rmtree(aside, ignore_errors=True)
    for archive in archives:
        archive.unlink()
