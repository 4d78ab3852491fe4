"""How a file says no."""

from __future__ import annotations


class Unusable(ValueError):
    """A file that cannot be used. ``what`` and ``fix`` go on from its name: "x is cut off; save it again." """

    def __init__(self, shown: str, what: str, fix: str):
        super().__init__(f"{shown} {what}; {fix}.")
        self.shown = shown
        self.what = what
        self.fix = fix
