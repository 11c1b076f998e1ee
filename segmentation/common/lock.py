"""One writer per folder: a lock that ends with its process, however that ends.

The lock is flock's on a hidden file beside the folder, `.NAME.lock`; the file names its holder and
is removed with the lock. After a SIGKILL the file stays, but not the lock. Over NFS, Linux makes
the lock one of the server (since 2.6.12), so that it also holds between machines, unless the folder
is mounted with `nolock` or `local_lock`.
"""

import contextlib
import errno
import fcntl
import os
import platform
from pathlib import Path

from segmentation.common.runfiles import UserError

READ_ONLY = {errno.EACCES, errno.EPERM, errno.EROFS}
_held = {}  # path of a lock file -> (descriptor, folders that were made for it)


def claim(folder):
    """Be the only process that writes to `folder`, until `release`. UserError if another one is.

    Where no lock file can be made because the place is read-only, there is nothing to lock: who
    goes on to write is told so then.
    """
    folder = Path(folder).resolve()
    path = folder.with_name(f".{folder.name}.lock")
    if path in _held:
        return
    new = [place for place in path.parents if not place.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = opened(path)
    except OSError as error:
        if error.errno in READ_ONLY:
            return
        raise
    if descriptor is None:
        holder = path.read_text(errors="replace").strip() if path.exists() else ""
        raise UserError(
            f"{folder}: another process is writing there{f' ({holder})' if holder else ''}; "
            "wait for it, or give another folder"
        )
    os.truncate(descriptor, 0)
    os.write(descriptor, f"process {os.getpid()} on {platform.node()}\n".encode())
    _held[path] = descriptor, new


def opened(path):
    """The descriptor of a locked file; None if another process has locked it."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        os.close(descriptor)  # its holder has just removed it: make another


def release():
    """Give up all locks; folders that were made for them and are empty go too."""
    for path, (descriptor, new) in _held.items():
        with contextlib.suppress(OSError):
            path.unlink()
        os.close(descriptor)
        with contextlib.suppress(OSError):
            for place in new:
                place.rmdir()
    _held.clear()
