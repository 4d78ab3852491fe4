"""Values as a record may hold them: JSON without NaN, and nothing so long that a workflow could fill the memory."""

from __future__ import annotations

import hashlib
import math
from typing import Any

#: Letters of a text, of an id and of a record's one line, items of a list, findings, and levels of nesting.
LONGEST_TEXT, LONGEST_ID, LONGEST_LINE, MOST_ITEMS, MOST_FINDINGS, DEEPEST = 2_000, 100, 500, 1_000, 100, 8


def cut(text: str, most: int = LONGEST_TEXT) -> str:
    """``cut("abcdef", 3)`` is "ab…". What UTF-8 cannot hold is replaced."""
    if len(text) > most:
        text = f"{text[: most - 1]}…"
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def short_id(name: str) -> str:
    """An id that clients chose; a long one is cut, and still told from others."""
    if len(name) <= LONGEST_ID:
        return cut(name)
    return cut(f"{name[: LONGEST_ID - 9]}…{hashlib.sha256(name.encode('utf-8', 'replace')).hexdigest()[:8]}")


def plain(value: Any, levels: int = DEEPEST) -> Any:
    """A copy of nested dicts, lists and values that JSON can hold: numbers that it has not are null, long texts and
    lists are cut."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):  # Python writes no number of more than some 4,300 digits
        return value if abs(value) < 2**63 else cut(f"a number of {value.bit_length()} bits")
    if isinstance(value, str):
        return cut(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if levels and isinstance(value, dict):
        return {cut(str(key)): plain(item, levels - 1) for key, item in list(value.items())[:MOST_ITEMS]}
    if levels and isinstance(value, list | tuple):
        return [plain(item, levels - 1) for item in value[:MOST_ITEMS]]
    return cut(type(value).__name__)


def plain_check(check: Any) -> Any:
    """The record's ``check`` field with at most ``MOST_FINDINGS`` findings, the worst, and how many more there are."""
    findings = check.get("findings") if isinstance(check, dict) else None
    if not findings or len(findings) <= MOST_FINDINGS:
        return plain(check)
    more = {
        "severity": "note",
        "path": "",
        "class": "",
        "where": "",
        "what": f"{len(findings) - MOST_FINDINGS:,} more findings are not shown",
        "why": f"These are the {MOST_FINDINGS} worst.",
        "fix": "Fix those first.",
        "rule": "more-findings",
    }
    return plain({**check, "findings": [*findings[:MOST_FINDINGS], more]})
