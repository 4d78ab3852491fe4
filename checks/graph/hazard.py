"""What rules on places in a processor's source have in common: a place counts when it ran."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import ClassVar

from ..finding import Severity
from ..mounted import Mounted
from ..rule import Hit, Layer, Rule
from .capture import capture
from .code import code
from .rehearsal import rehearsal
from .spots import Spot


class Hazard(Rule):
    """A rule on places in the source. A place counts when it ran; its block runs uncompiled where it broke the graph,
    or where a break before it keeps that from being known. ``captured`` is the severity where it fitted into the graph,
    None when there is nothing wrong with it then."""

    layer: ClassVar[Layer] = "hazards"
    subject: ClassVar[type[Mounted]] = Mounted
    severity: ClassVar[Severity] = "warning"
    captured: ClassVar[Severity | None] = None

    def spots(self, mounted: Mounted) -> Iterable[Spot]:
        """The places, whether they run or not."""
        raise NotImplementedError

    def ran(self, mounted: Mounted) -> Iterator[Spot]:
        """The places that a graph would have to hold, one a line."""
        source, rehearsed = mounted.evidence(code), mounted.evidence(rehearsal)
        lines: set[str] = set()
        for spot in self.spots(mounted):
            if spot.where not in lines and source.enters_graph(spot.file, spot.first) and rehearsed.ran(spot):
                lines.add(spot.where)
                yield spot

    def hits(self, subject: Mounted) -> Iterator[Hit]:
        for spot in self.ran(subject):
            if not fits(subject, spot):
                yield Hit({"name": spot.text}, spot.where, uncompiled=True)
            elif self.captured is not None:
                yield Hit({"name": spot.text}, spot.where, self.captured)


def fits(mounted: Mounted, spot: Spot) -> bool:
    """Whether every call that ran a place became one graph."""
    rehearsed, captured = mounted.evidence(rehearsal), mounted.evidence(capture)
    for lines, whole in ((rehearsed.plain, captured.plain), (rehearsed.masked, captured.masked)):
        ran = any((spot.file, line) in (lines or ()) for line in range(spot.first, spot.last + 1))
        if ran and whole is False:
            return False
    return True
