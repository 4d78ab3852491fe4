"""Globs over module paths: ``*`` any letters, dots too, ``?`` one, ``[ab]`` and ``[a-c]`` one of these, ``[!a]`` one
other.

Not fnmatch: it makes a regular expression, which takes longer than anybody waits for a few thousand brackets or stars.
"""

from __future__ import annotations

from collections.abc import Callable

#: One letter of a path: any, one of some ranges, or one outside of them.
_Letter = tuple[bool, tuple[tuple[str, str], ...]]

_ANY: _Letter = (False, ())

#: Letters of a path after which `Glob.matches` asks whether to go on.
_PAUSE = 64


class Glob:
    """One glob. All ways through it are followed at once: for each letter of a path, the places in the glob that it may
    have come to, as the bits of one number. So a path of n letters takes n steps, whatever the glob is."""

    def __init__(self, text: str):
        letters: list[_Letter] = []
        self._stars = 0
        at = 0
        while at < len(text):
            end = at + 1
            if text[at] == "*":
                self._stars |= 1 << len(letters)
            elif text[at] == "?":
                letters.append(_ANY)
            elif text[at] == "[" and (close := text.find("]", at + (3 if text[at + 1 : at + 2] == "!" else 2))) > 0:
                letters.append(_set(text[at + 1 : close]))
                end = close + 1
            else:
                letters.append((True, ((text[at], text[at]),)))
            at = end
        self._letters = letters
        self._last = 1 << len(letters)
        self._places: dict[str, int] = {}

    def matches(self, path: str, go_on: Callable[[], None] = lambda: None) -> bool:
        """Whether the glob means this path, or one above it. ``go_on`` is called from time to time, and may raise."""
        places = 1
        for n, letter in enumerate(path):
            if n % _PAUSE == 0:
                go_on()
            if letter == "." and n and places & self._last:
                return True
            places = (places & self._taking(letter)) << 1 | places & self._stars
            if not places:
                return False
        return bool(places & self._last)

    def _taking(self, letter: str) -> int:
        """The places at which the glob takes this letter, and goes on to the next."""
        found = self._places.get(letter)
        if found is None:
            found = sum(
                1 << n
                for n, (wanted, ranges) in enumerate(self._letters)
                if any(low <= letter <= high for low, high in ranges) is wanted
            )
            self._places[letter] = found
        return found


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
