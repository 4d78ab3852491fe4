"""Where compiled code is kept, and whether anybody else could put something there."""

from __future__ import annotations

import os
import stat
from pathlib import Path

#: Bits of a folder's mode that let others write.
_OTHERS_WRITE, _GROUP_WRITES = stat.S_IWOTH, stat.S_IWGRP


class CacheUnusable(Exception):
    """The cache folder cannot be used; the text is a sentence with the remedy."""


def prepare(folder: Path) -> Path:
    """The folder by its real path, made for this user alone if it is not there.

    Raises:
        CacheUnusable: when somebody else could write into it, or it cannot be written.
    """
    if not folder.is_absolute():
        raise CacheUnusable(
            f"the compile cache folder “{folder}” is not an absolute path: name one with ONEDIFF_COMPILE_CACHE."
        )
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        folder = folder.resolve(strict=True)
    except OSError as error:
        raise CacheUnusable(
            f"the compile cache folder {folder} cannot be made ({error.strerror or error}): make it writable, or name "
            "another with ONEDIFF_COMPILE_CACHE."
        ) from error
    reason = untrusted(folder)
    if reason:
        raise CacheUnusable(reason)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise CacheUnusable(f"the compile cache folder {folder} is not writable: run “chmod u+rwx {folder}”.")
    return folder


def untrusted(folder: Path) -> str | None:
    """Why a folder is not this user's alone, None when it is.

    Windows has no such bits, and access lists are not read there: a new folder inherits its parent's, and what is in
    it is taken only with the signature of a key that lies beside it.
    """
    if os.name != "posix":
        return None
    own = folder.stat()
    if own.st_uid != os.geteuid():
        return (
            f"the compile cache folder {folder} belongs to another user: name a folder of your own with "
            "ONEDIFF_COMPILE_CACHE."
        )
    if own.st_mode & 0o077:
        return f"the compile cache folder {folder} is open to other users: run “chmod 700 {folder}”."
    for parent in folder.parents:
        found = parent.stat()
        if found.st_uid not in trusted_owners():
            return f"{parent}, which holds the compile cache, belongs to another user: name another folder with " + (
                "ONEDIFF_COMPILE_CACHE."
            )
        if found.st_mode & stat.S_ISVTX:  # others can add to it, but not replace what is there
            continue
        if found.st_mode & _OTHERS_WRITE:
            return f"{parent}, which holds the compile cache, can be written by everybody: run “chmod o-w {parent}”."
        if found.st_mode & _GROUP_WRITES and not _private_group(found.st_gid):
            return f"{parent}, which holds the compile cache, can be written by a group: run “chmod g-w {parent}”."
    return None


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


def open_own(path: Path) -> int:
    """Opens a file for reading, without following a link, if it is a regular file of this user that nobody else can
    write: asked of the open file, so that it cannot be exchanged between the question and the reading.

    Raises:
        PermissionError: when it is not.
        OSError: when it cannot be opened.
    """
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0))
    found = os.fstat(handle)
    is_own = os.name != "posix" or (found.st_uid == os.geteuid() and not found.st_mode & 0o077)
    if not stat.S_ISREG(found.st_mode) or not is_own:
        os.close(handle)
        raise PermissionError(f"{path.name} is not a file of this user alone")
    return handle
