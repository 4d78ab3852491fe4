"""Values as a record may hold them: JSON without NaN, and nothing so long that a workflow could fill the memory."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any

from .installing import with_python

#: Letters of a text, of an id and of a record's one line, items of a list, findings, and levels of nesting.
LONGEST_TEXT, LONGEST_ID, LONGEST_LINE, MOST_ITEMS, MOST_FINDINGS, DEEPEST = 2_000, 100, 500, 1_000, 100, 8

#: Bytes of JSON of a report, and of a record's fields. All fields of a record together take at most 800 kB.
LARGEST, LARGEST_FIELD = 2**20, 2**14
LARGEST_OF = {"check": 2**18, "patches": 2**17, "compile": 2**17}

_NESTED = (dict, list, tuple)

#: Bytes of ``"cut": true``.
_CUT_MARK = 16


def cut(text: str, most: int = LONGEST_TEXT) -> str:
    """``cut("abcdef", 3)`` is "ab…". What UTF-8 cannot hold is replaced."""
    if len(text) > most:
        text = f"{text[: most - 1]}…"
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def is_comparable(value: Any) -> bool:
    """Whether a record can hold a value as it is, and a page tell whether another one equals it."""
    if type(value) is str:
        return cut(value, LONGEST_LINE) == value
    return type(value) is bool or (type(value) in (int, float) and abs(value) < 2**53)


def short_id(name: str) -> str:
    """An id that clients chose, as it can stand in a line; one that is long, or has line breaks or other characters
    that are not seen, is changed, and still told from others."""
    seen = "".join(letter if letter.isprintable() else "?" for letter in name[:LONGEST_ID])
    if seen == name:
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{seen[: LONGEST_ID - 9]}…{digest}"


class _Room:
    """Bytes of JSON that are left for a value; ``is_cut`` once something did not fit."""

    def __init__(self, left: int):
        self.left = left
        self.is_cut = False

    def takes(self, size: int) -> bool:
        if size > self.left:
            self.is_cut = True
            return False
        self.left -= size
        return True


def plain(value: Any, most: int = LARGEST) -> Any:
    """A copy of nested dicts, lists and values that JSON can hold: numbers that it has not are null, long texts and
    lists are cut, and so is what would be longer than ``most`` bytes. A dict that was cut there has ``"cut": true``.
    """
    room = _Room(most - _CUT_MARK)
    found = _plain(value, DEEPEST, room)
    return {**found, "cut": True} if room.is_cut and isinstance(found, dict) else found


def _plain(value: Any, levels: int, room: _Room) -> Any:
    if levels and isinstance(value, dict):
        return _plain_dict(value, levels, room)
    if levels and isinstance(value, list | tuple):
        found = []
        for item in value[:MOST_ITEMS]:
            kept = _plain(item, levels - 1, room)
            if room.is_cut:  # what is there is whole
                break
            found.append(kept)
        return found
    kept = _one(value)
    return kept if room.takes(_size(kept)) else None


def _plain_dict(value: dict[Any, Any], levels: int, room: _Room) -> dict[str, Any]:
    """Names first, then single values, then the shorter lists: what a record's line needs stays, however long the
    others are."""
    named = [(cut(str(key)), item) for key, item in list(value.items())[:MOST_ITEMS]]
    kept = {key: item for key, item in named if room.takes(_size(key))}
    found: dict[str, Any] = {}
    for key in sorted(kept, key=lambda key: len(kept[key]) if isinstance(kept[key], _NESTED) else -1):
        if room.is_cut:
            found[key] = type(kept[key])() if isinstance(kept[key], dict | list) else None
        else:
            found[key] = _plain(kept[key], levels - 1, room)
    return {key: found[key] for key in kept}


def _one(value: Any) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):  # Python writes no number of more than some 4,300 digits
        return value if abs(value) < 2**63 else cut(f"a number of {value.bit_length()} bits")
    if isinstance(value, str):
        return cut(with_python(value))
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return cut(type(value).__name__)


def _size(value: Any) -> int:
    """Bytes that a single value takes in JSON, with what stands around it."""
    return len(json.dumps(value)) + 4


def plain_field(name: str, value: Any) -> Any:
    """A field of a record as it may hold it."""
    most = LARGEST_OF.get(name, LARGEST_FIELD)
    return plain_check(value, most) if name == "check" else plain(value, most)


def plain_check(check: Any, most: int = LARGEST) -> Any:
    """The record's ``check`` field with at most ``MOST_FINDINGS`` findings, the worst, fewer where they are long, and
    how many more there are."""
    findings = check.get("findings") if isinstance(check, dict) else None
    if not findings:
        return plain(check, most)
    room, kept = most // 8 * 7, []
    for finding in findings[:MOST_FINDINGS]:
        one = plain(finding, room)
        if isinstance(one, dict) and one.get("cut"):
            break
        room -= _size(one)
        kept.append(one)
    if len(kept) == len(findings):
        return plain({**check, "findings": kept}, most)
    more = {
        "severity": "note",
        "path": "",
        "class": "",
        "where": "",
        "what": f"{len(findings) - len(kept):,} more findings are not shown",
        "why": f"These are the {len(kept)} worst.",
        "fix": "Fix those first.",
        "rule": "more-findings",
    }
    return plain({**check, "findings": [*kept, more]}, most)
