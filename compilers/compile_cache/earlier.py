"""What version 0.4.0 kept directly in the folder that was named, among the user's own files."""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path

from .folder import is_nothing, told
from .store import Deleted, delete, is_entry, read_secret

log = logging.getLogger(__name__)

#: Its key file. Others may have a file of that name too: it is 0.4.0's if it signed an entry that lies there.
KEY = "key"


def delete_among_others(folder: Path, unsigned: bool = False) -> Deleted:
    """Deletes the entries that 0.4.0's key signed and, last, that key, and nothing else: this version's own may lie
    there too. With ``unsigned`` entries go as well that the key did not sign: this version would not read them."""
    try:
        names = sorted(os.listdir(folder))
    except (OSError, ValueError) as error:
        return Deleted() if is_nothing(error) else Deleted(0, 1, told(error))
    entries = [folder / name for name in names if _is(folder / name)]
    if not entries:
        return Deleted()
    signed: list[Path] = []
    with contextlib.suppress(OSError):
        secret = read_secret(folder / KEY)
        signed = [entry for entry in entries if secret is not None and _is(entry, secret)]
    return delete([*(entries if unsigned else signed), *([folder / KEY] if signed else [])])


def _is(path: Path, secret: bytes | None = None) -> bool:
    try:
        return is_entry(path, secret)
    except OSError as error:
        log.debug("%s is left as it is: %s", path, error)
        return False
