"""Where compiled code is kept, and whether anybody else could put something there."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from ...proving.files import open_file
from . import windows

#: Whether files have an owner and mode bits.
POSIX = os.name == "posix"

#: Bits of a folder's mode that let others write.
_OTHERS_WRITE, _GROUP_WRITES = stat.S_IWOTH, stat.S_IWGRP

#: What a system says of a path where no folder can be.
_NO_FOLDER = {errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL}

_ANOTHER = "or name another with ONEDIFF_COMPILE_CACHE"


class CacheUnusable(Exception):
    """The cache folder cannot be used; the text is a sentence with the remedy. It goes into records and pictures, which
    people share, so it names no path; ``path`` is for the console."""

    def __init__(self, reason: str, path: Path | None = None):
        super().__init__(reason)
        self.path = path


def is_nothing(error: OSError | ValueError) -> bool:
    """Whether an error says that there is no such folder: also for a name that none can have."""
    return isinstance(error, ValueError) or error.errno in _NO_FOLDER


def told(error: BaseException) -> str:
    """What an error says without its path: "No space left on device"."""
    number = getattr(error, "errno", None)
    return os.strerror(number) if isinstance(number, int) else type(error).__name__


def prepare(folder: Path) -> Path:
    """The folder by its real path, made for this user alone if it is not there; and the one that holds it, but no
    other.

    Raises:
        CacheUnusable: when somebody else could write into it, or it cannot be written.
    """
    if not folder.is_absolute():
        raise CacheUnusable("the folder for the compile cache is not an absolute path: name one that is.", folder)
    named = folder.parent
    try:
        if not named.is_dir() and not named.parent.is_dir():
            raise CacheUnusable(
                "neither the folder for the compile cache nor the one that should hold it exists: make it, "
                f"{_ANOTHER}.",
                named,
            )
        above = named if named.is_dir() else named.parent
        refused = (_others_link(above) or _others_above(above.resolve(strict=True))) if POSIX else None
        if refused is not None:  # nothing is made there first
            raise refused
        named.mkdir(mode=0o755, exist_ok=True)
        _make(folder)
        refused = untrusted(folder)
        folder = folder.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise CacheUnusable(
            f"the compile cache folder cannot be made ({told(error)}): make it writable, {_ANOTHER}.", folder
        ) from error
    if refused is not None:
        raise refused
    if not os.access(folder, os.W_OK | os.X_OK):
        raise CacheUnusable("the compile cache folder is not writable: run “chmod u+rwx” on it.", folder)
    return folder


def _make(folder: Path) -> None:
    """Makes a folder for this user alone, if there is none."""
    if folder.is_dir():
        return
    if POSIX:
        folder.mkdir(mode=0o700, exist_ok=True)
    else:
        windows.make_private(folder)


def untrusted(folder: Path) -> CacheUnusable | None:
    """Why a folder is not this user's alone, None when it is. Its path is as it was named: a link in it may be planted,
    where others can add to a folder, and lead to what is this user's alone.

    Raises:
        OSError: when it cannot be asked.
    """
    linked = _others_link(folder)
    if linked is not None:
        return linked
    folder = folder.resolve(strict=True)
    if not POSIX:
        if windows.is_own(folder):
            return None
        reason = "Windows does not say that the compile cache folder is yours alone: delete it, and it is made again,"
        return CacheUnusable(f"{reason} {_ANOTHER}.", folder)
    own = folder.stat()
    if own.st_uid != os.geteuid():
        return CacheUnusable(
            "the compile cache folder belongs to another user: name a folder of your own with ONEDIFF_COMPILE_CACHE.",
            folder,
        )
    if own.st_mode & 0o077:
        return CacheUnusable("the compile cache folder is open to other users: run “chmod 700” on it.", folder)
    return _others_above(folder.parent)


def _others_link(folder: Path) -> CacheUnusable | None:
    if any(_is_others_link(path) for path in ((folder, *folder.parents) if POSIX else (folder,))):
        return CacheUnusable(
            f"a link of another user leads to the compile cache folder: delete it, {_ANOTHER}.", folder
        )
    return None


def _others_above(folder: Path) -> CacheUnusable | None:
    """Why others could replace what is made in a folder, given by its real path; None where they cannot."""
    for parent in (folder, *folder.parents):
        found, holds = parent.stat(), "a folder that holds the compile cache"
        if found.st_uid not in trusted_owners():
            reason = f"{holds} belongs to another user: name another with ONEDIFF_COMPILE_CACHE."
            return CacheUnusable(reason, parent)
        if found.st_mode & stat.S_ISVTX:  # others can add to it, but not replace what is there
            continue
        if found.st_mode & _OTHERS_WRITE:
            return CacheUnusable(f"{holds} can be written by everybody: run “chmod o-w” on it.", parent)
        if found.st_mode & _GROUP_WRITES and not _private_group(found.st_gid):
            return CacheUnusable(f"{holds} can be written by a group: run “chmod g-w” on it.", parent)
    return None


def _is_others_link(path: Path) -> bool:
    """Whether a path is a link that is not this user's. On Windows, which does not say whose it is, any is."""
    is_junction = getattr(os.path, "isjunction", None)  # Python 3.12
    if not path.is_symlink() and not (is_junction is not None and is_junction(path)):
        return False
    return not POSIX or path.lstat().st_uid not in trusted_owners()


def trusted_owners() -> set[int]:
    """Users who can run code here anyway: root, this one, and whoever owns this pack's files."""
    return {0, os.geteuid(), Path(__file__).stat().st_uid}


def _private_group(gid: int) -> bool:
    """Whether a group is the one that many systems make for each user."""
    import grp
    import pwd

    try:
        user, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(gid)
    except KeyError:
        return False
    return (gid == user.pw_gid and group.gr_name == user.pw_name and set(group.gr_mem) <= {user.pw_name}) or gid == 0


def open_own(path: Path, most: int) -> int:
    """Opens a file as `open_file` does, if it is this user's and nobody else can write it.

    Raises:
        PermissionError: when it is not.
        OSError: when it cannot be opened.
    """
    handle = open_file(path, most)
    found = os.fstat(handle)
    own = found.st_uid == os.geteuid() and not found.st_mode & 0o077 if POSIX else windows.is_own(handle)
    if not own:
        os.close(handle)
        raise PermissionError(f"{path.name} is not a file of this user alone")
    return handle
