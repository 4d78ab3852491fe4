"""Globs over module paths: ``*`` any letters, dots too, ``?`` one, ``[ab]`` and ``[a-c]`` one of these, ``[!a]`` one
other.

Not fnmatch: it makes a regular expression, which takes longer than anybody waits for a few thousand brackets or stars.
"""

from __future__ import annotations

#: One letter of a path: any, one of some ranges, or one outside of them.
_Letter = tuple[bool, tuple[tuple[str, str], ...]]

_ANY: _Letter = (False, ())


class Glob:
    """One glob. Its pieces between stars are found from left to right, each where it comes first, so nothing is tried
    twice: a path of n letters takes at most n² comparisons, however long the glob is."""

    def __init__(self, text: str):
        pieces: list[list[_Letter]] = [[]]
        at = 0
        while at < len(text):
            end = at + 1
            if text[at] == "*":
                pieces.append([])
            elif text[at] == "?":
                pieces[-1].append(_ANY)
            elif text[at] == "[" and (close := text.find("]", at + (3 if text[at + 1 : at + 2] == "!" else 2))) > 0:
                pieces[-1].append(_set(text[at + 1 : close]))
                end = close + 1
            else:
                pieces[-1].append((True, ((text[at], text[at]),)))
            at = end
        self._first, *rest = [tuple(piece) for piece in pieces]
        self._middle = [piece for piece in rest[:-1] if piece]
        self._last = rest[-1] if rest else None
        self._least = sum(map(len, pieces))

    def matches(self, path: str) -> bool:
        """Whether the glob means this path, or one above it."""
        starts = [n for n, letter in enumerate(path) if letter == "."] + [len(path)]
        return any(self._is(path[:end]) for end in starts)

    def _is(self, path: str) -> bool:
        if len(path) < self._least or not _fits(self._first, path, 0):
            return False
        if self._last is None:
            return len(path) == self._least
        at, end = len(self._first), len(path) - len(self._last)
        for piece in self._middle:
            while at + len(piece) <= end and not _fits(piece, path, at):
                at += 1
            if at + len(piece) > end:
                return False
            at += len(piece)
        return _fits(self._last, path, end)


def _set(inside: str) -> _Letter:
    """What stands between brackets: ``a-cx`` is a to c, and x."""
    wanted = not inside.startswith("!")
    letters = inside if wanted else inside[1:]
    ranges = []
    at = 0
    while at < len(letters):
        is_range = letters[at + 1 : at + 2] == "-" and at + 2 < len(letters)
        ranges.append((letters[at], letters[at + 2] if is_range else letters[at]))
        at += 3 if is_range else 1
    return wanted, tuple(dict.fromkeys(ranges))


def _fits(piece: tuple[_Letter, ...], path: str, at: int) -> bool:
    return all(
        any(low <= path[at + n] <= high for low, high in ranges) is wanted for n, (wanted, ranges) in enumerate(piece)
    )
