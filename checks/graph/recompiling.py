"""Rules on what is different from step to step or from block to block, and on breaks that no other rule explains."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterable, Iterator
from typing import ClassVar

from ..finding import Severity
from ..mounted import Mounted
from ..rule import Hit, Layer, Rule, rule, rules
from ..source import class_location, function_location
from .capture import Capture, Occasion, Recompile, capture
from .code import code
from .hazard import Hazard
from .rehearsal import rehearsal
from .spots import Code, Spot


@rule
class StepState(Hazard):
    """A counter, or another value that each step changes and the graph is built on."""

    what = "changes {name} in every call, and computes with it"
    why = (
        "One object serves all places, so it tells neither the layer nor the step. A graph is built on one value: each "
        "step would be compiled again, and soon the compiler gives up."
    )
    fix = "{fix}"

    counter = (
        "Add transformer_options=None to forward: transformer_options[“sigmas”][0] is the noise level, a tensor of one "
        "number, high in the first step and near 0 in the last; choose by it with torch.where. To act on some layers "
        "only, choose them with “blocks” in the node."
    )
    container = (
        "What is only kept to be looked at afterwards goes under “if not torch.compiler.is_compiling():”; blocks that "
        "are compiled then add nothing. What later calls need has to stay, and its blocks run uncompiled."
    )

    def spots(self, mounted: Mounted) -> Iterable[Spot]:
        rehearsed = mounted.evidence(rehearsal)
        if _recompile(mounted, "step") is None:
            return []
        return [spot for spot in _writes(mounted) if spot.name in rehearsed.changing]

    def hits(self, subject: Mounted) -> Iterator[Hit]:
        for spot in self.ran(subject):
            fills = isinstance(vars(subject.module).get(spot.name), list | dict | set)
            fix = self.container if fills else self.counter
            yield Hit({"name": spot.text, "fix": fix}, spot.where, uncompiled=True)


@rule
class StateInForward(Hazard):
    """State that a call leaves on the processor, its site or in a global."""

    captured = "warning"
    what = "sets {name} in forward"
    why = "What one call leaves there, the next one finds, of another block too; it begins anew with each sampling."
    fix = (
        "Keep it in a local variable if nothing needs it later. What is only looked at afterwards goes under “if not "
        "torch.compiler.is_compiling():”; compiled blocks then do without it. What later calls compute with has to "
        "stay, and its blocks run uncompiled.{instead}"
    )

    def spots(self, mounted: Mounted) -> Iterable[Spot]:
        changed = mounted.evidence(rehearsal).changed
        counters = {spot.where for spot in StepState().spots(mounted)}
        return [spot for spot in _writes(mounted) if spot.name in changed and spot.where not in counters]

    def hits(self, subject: Mounted) -> Iterator[Hit]:
        shared = {(spot.where, spot.name) for spot in subject.evidence(code).global_writes}
        for spot in self.ran(subject):
            is_global = (spot.where, spot.name) in shared
            instead = f" Keep it as an attribute, self.{spot.name}, instead of a global." if is_global else ""
            name = f"{spot.text}, a global," if is_global else spot.text
            yield Hit({"name": name, "instead": instead}, spot.where)


@rule
class HookOnProcessor(Rule):
    """Forward hooks on the processor or a module inside it."""

    layer = "hazards"
    subject = Mounted
    severity = "warning"
    what = "has a forward hook ({name})"
    why = "The graph holds the hooks that are set when it is built: one that is set later is ignored."
    fix = "Call in forward what the hook does, or remove the hook before sampling."

    def hits(self, subject: Mounted) -> Iterator[Hit]:
        for module in subject.module.modules():
            for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values()):
                name = getattr(hook, "__qualname__", type(hook).__qualname__)
                yield Hit({"name": name}, function_location(getattr(hook, "__func__", hook)))


@rule
class ChangingGlobal(Hazard):
    """Reads of a global that another function of the file changes."""

    captured = "warning"
    what = "reads {name}, a global that its file changes while running"
    why = "The graph is built on its current value; each new value needs another graph."
    fix = "Keep it as an attribute that is set in __init__, self.{name}, or pass it as a tensor."

    def spots(self, mounted: Mounted) -> Iterable[Spot]:
        source = mounted.evidence(code)
        written = {spot.name for spot in source.global_writes}
        return [s for s in source.global_reads if source.rebound(s.name, s.file) and s.name not in written]


@rule
class GraphBreak(Rule):
    """A break that no other rule explains."""

    layer = "hazards"
    subject = Mounted
    severity = "warning"
    what = "{what}"
    why = "{why} It runs uncompiled."
    fix = "{fix}"

    def hits(self, subject: Mounted) -> Iterator[Hit]:
        for stop in subject.evidence(capture).breaks:
            explained = (
                spot.covers(stop.file, stop.line)
                for other in rules("hazards")
                if isinstance(other, Hazard)
                for spot in other.ran(subject)
            )
            if not any(explained):
                own = stop.file in subject.evidence(code).files
                reason = stop.reason.rstrip(".") + (f" ({stop.where})" if stop.where and not own else "")
                if isinstance(inspect.getattr_static(type(subject.module), "forward"), functools.partialmethod):
                    yield Hit(_OF_PARTIALMETHOD, class_location(type(subject.module)), uncompiled=True)
                else:
                    yield Hit(_in_words(reason), stop.where if own else _forward(subject), uncompiled=True)


@rule
class TooLong(Rule):
    """A loop over heads, pictures or tokens. What its graph cannot hold is not known."""

    layer = "hazards"
    subject = Mounted
    severity = "warning"
    what = "makes {count} operations in one call, too many for a graph"
    why = "Tracing and compiling it would take minutes, so it runs uncompiled, and was not looked at for that."
    fix = "Compute all slices at once, as scaled_dot_product_attention does, or in fewer, larger ones."

    def hits(self, subject: Mounted) -> Iterator[Hit]:
        count = subject.evidence(capture).too_long
        if count is not None:
            yield Hit({"count": count}, _forward(subject), uncompiled=True)


class Recompiles(Rule):
    """A rule on what makes a new graph necessary again and again."""

    layer: ClassVar[Layer] = "hazards"
    subject: ClassVar[type[Mounted]] = Mounted
    severity: ClassVar[Severity] = "warning"
    occasion: ClassVar[Occasion]
    uncompiled: ClassVar[bool] = False

    def hits(self, subject: Mounted) -> Iterator[Hit]:
        found = _recompile(subject, self.occasion)
        if found is not None and not self.explained(subject):
            yield Hit({"reason": found.reason}, _line(subject, found), uncompiled=self.uncompiled)

    def explained(self, mounted: Mounted) -> bool:
        return False


@rule
class RecompilesPerStep(Recompiles):
    """Each step needs another graph, and no state was seen to change."""

    occasion = "step"
    uncompiled = True
    what = "needs a new graph at every step"
    why = "The compiler built it on something that each step changes ({reason}), and soon gives up."
    fix = "Take that out of forward, or make it a tensor."

    def explained(self, mounted: Mounted) -> bool:
        return any(True for _ in StepState().ran(mounted))


@rule
class RecompilesPerSize(Recompiles):
    """Each picture size or prompt length needs another graph."""

    occasion = "size"
    what = "needs a new graph for every picture size and prompt length"
    why = "It uses a number of tokens as a plain number ({reason}), so each new size is compiled again."
    fix = "Compute with tensors instead of loops, lists or tables over tokens: torch.arange(n), slices, broadcasting."


@rule
class RecompilesPerBlock(Recompiles):
    """Each block needs a graph of its own."""

    occasion = "block"
    what = "needs a graph of its own for every block"
    why = "It tells the modules apart ({reason}), so blocks cannot share a graph; soon the compiler gives up."
    fix = "Decide by shapes or settings instead of by the module; give each block its own processor where they differ."


def _writes(mounted: Mounted) -> list[Spot]:
    source = mounted.evidence(code)
    return [*source.writes, *source.global_writes]


def _recompile(mounted: Mounted, occasion: Occasion) -> Recompile | None:
    found: Capture = mounted.evidence(capture)
    return next((r for r in found.recompiles if r.occasion == occasion), None)


def _line(mounted: Mounted, found: Recompile) -> str | None:
    """The line that Dynamo names, where it is the user's, else that of forward."""
    source: Code = mounted.evidence(code)
    for span in source.spans:
        if found.line and span.where.rpartition("/")[2].rpartition(":")[0] == found.line.rpartition(":")[0]:
            return f"{span.where.rpartition(':')[0]}:{found.line.rpartition(':')[2]}"
    return _forward(mounted)


def _forward(mounted: Mounted) -> str | None:
    """The line of forward, None for a scripted module."""
    forward = getattr(type(mounted.module), "forward", None)
    return None if forward is None else function_location(forward)


_OF_PARTIALMETHOD = {
    "what": "has a forward that functools.partialmethod makes",
    "why": "The compiler does not look into it.",
    "fix": "Write it out: def forward(self, …), which calls the function with the arguments that are bound.",
}


def _in_words(reason: str) -> dict[str, object]:
    """``what``, ``why`` and ``fix`` of a break that Dynamo gives this reason for."""
    if "torch.compiler.disable" in reason:
        return {
            "what": "is marked @torch.compiler.disable, or calls what is",
            "why": "Such a function is left out of every graph.",
            "fix": "Take @torch.compiler.disable off; the check then says what else no graph can hold, if anything.",
        }
    return {
        "what": "does not fit into one graph",
        "why": f"The compiler stops here: {reason}.",
        "fix": "Compute it in __init__, or express it with torch functions.",
    }
