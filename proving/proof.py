"""Whether a backend works on a device, and how it is told."""

from __future__ import annotations

from dataclasses import dataclass

#: A backend whose compiled code takes more than twice as long is used only where no other works.
SLOWER = 0.5


@dataclass(frozen=True)
class Proof:
    """Whether a backend compiled and ran something tiny on a device, and how long that took.

    ``seconds`` are for compiling and the first run; ``startup_seconds`` are the rest, where the proof runs in a process
    of its own. ``passing`` marks a reason that may be gone the next time, such as a full device. ``speed`` is the
    uncompiled time over the compiled one.
    """

    available: bool
    reason: str
    seconds: float | None = None
    passing: bool = False
    startup_seconds: float | None = None
    speed: float | None = None

    @property
    def slower(self) -> bool:
        """Whether it is far slower than uncompiled. Something small tells no more; sessions time whole steps."""
        return self.speed is not None and self.speed < SLOWER

    @property
    def lasts(self) -> bool:
        """Whether it holds while versions stay the same. What was missing may be there the next time, and what was slow
        may have run on a busy machine."""
        return self.available and not self.slower
