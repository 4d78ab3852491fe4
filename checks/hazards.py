"""Rules on what a graph cannot hold: breaks, recompiles, and what happens once instead of at every step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import ClassVar

from .capture import Capture, Occasion, Recompile, capture
from .code import Code, Spot, code
from .finding import Severity
from .mounted import Mounted
from .rehearsal import rehearsal
from .rule import Hit, Layer, Rule, rule, rules
from .source import function_location


class Hazard(Rule):
    """A rule on places in the source. A place counts when it ran; it is an error where it broke the graph, or where a
    break before it keeps that from being known. ``captured`` is the severity where it fitted into the graph, None when
    there is nothing wrong with it then."""

    layer: ClassVar[Layer] = "hazards"
    subject: ClassVar[type[Mounted]] = Mounted
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
            severity = self.captured if _fits(subject, spot) else "error"
            if severity is not None:
                yield Hit({"name": spot.text}, spot.where, severity)


class Calls(Hazard):
    """A rule on calls by name: "time." is everything in that module."""

    functions: ClassVar[tuple[str, ...]]

    def spots(self, mounted: Mounted) -> Iterable[Spot]:
        return [spot for spot in mounted.evidence(code).calls if spot.name.startswith(self.functions)]


@rule
class Prints(Calls):
    """Output to the console or a log."""

    functions = ("builtins.print", "logging.", "warnings.warn", "pprint.", "sys.stdout", "sys.stderr", "loguru.")
    what = "prints or logs ({name}) in forward"
    why = "A graph holds computation only. The block would be cut here, so it runs uncompiled."
    fix = "Take it out, or put it under “if not torch.compiler.is_compiling():”."


@rule
class FilesInForward(Calls):
    """Reading or writing files."""

    functions = (
        "builtins.open", "_io.open", "io.", "os.path.", "os.listdir", "os.stat", "os.makedirs", "genericpath.",
        "posixpath.", "ntpath.", "pathlib.", "torch.save", "torch.load", "torch.serialization.", "numpy.save",
        "numpy.load", "json.dump", "json.load", "pickle.", "_pickle.", "safetensors.", "shutil.", "subprocess.",
    )  # fmt: skip
    what = "reads or writes a file ({name}) in forward"
    why = "A graph cannot hold it, so the block runs uncompiled, and every step waits for the disk."
    fix = "Load it in __init__ and keep it as an attribute or buffer; save results after sampling, in a node."


@rule
class Clock(Calls):
    """Reading the time."""

    functions = ("time.", "datetime.")
    what = "reads the clock ({name}) in forward"
    why = "A graph cannot hold it, so the block runs uncompiled."
    fix = "Take it out; OneDiff Compile shows the time of each step, and torch.profiler the time inside."


@rule
class RandomOutsideTorch(Calls):
    """Python's or NumPy's random numbers."""

    captured = "warning"
    functions = ("random.", "_random.", "numpy.random.", "secrets.", "uuid.", "os.urandom", "posix.urandom")
    what = "takes random numbers from {name} in forward"
    why = "They do not follow the sampler's seed, and a graph cannot hold them or draws them in its own way."
    fix = "Use torch.rand or torch.randn on the input's device, or draw them once in __init__."


@rule
class InspectsPython(Calls):
    """Looking at the running program."""

    functions = ("sys._getframe", "inspect.", "traceback.", "gc.", "threading.", "_thread.", "threading")
    what = "looks at the running program ({name}) in forward"
    why = "Inside a graph there are no frames, threads or collections to look at, so the block runs uncompiled."
    fix = "Do it in __init__ and keep the result as an attribute, or pass the value as an argument."


@rule
class ReadsEnvironment(Calls):
    """Environment variables."""

    captured = "note"
    functions = ("os.environ", "os.getenv", "os.environb")
    what = "reads an environment variable in forward"
    why = "The graph holds the value of the first step; each later look costs time or another graph."
    fix = "Read it once in __init__ and keep it as an attribute."


@rule
class CompilerDisabled(Calls):
    """A function that asks not to be compiled."""

    functions = ("disabled ",)
    what = "calls {name}, which is marked torch.compiler.disable"
    why = "Such a function is left out of every graph, so the block runs uncompiled."
    fix = "Take the mark off, or register the function with torch.library.custom_op and register_fake."


@rule
class OpaqueKernel(Calls):
    """Code that no compiler can look into."""

    functions = ("ctypes.", "_ctypes.", "cffi.", "numba.", "cupy.", "torch.ops.", "torch._ops.", "torch._library.")
    what = "calls {name}, which a graph cannot look into"
    why = "The compiler knows neither the shape of its result nor what it changes, so the block runs uncompiled."
    fix = "Register it with torch.library.custom_op, and its result's shape with register_fake."


@rule
class ScriptedModule(Calls):
    """A module made by torch.jit. Scripted functions fit into a graph, scripted modules do not."""

    functions = ("torch.jit.",)
    what = "calls {name}, a scripted or traced module"
    why = "Dynamo cannot look into a module made by torch.jit, so the block runs uncompiled."
    fix = "Use the module as it was before scripting, since the compiler does the same work; or script a function."


@rule
class DependsOnValues(Hazard):
    """A branch, a loop or a list that depends on the values in a tensor."""

    what = "goes different ways, or makes Python values, by what is in a tensor"
    why = "A graph is one way for all values. The block would be cut here, so it runs uncompiled."
    fix = "Compute both ways and choose with torch.where, or decide by a shape or a setting."

    def spots(self, mounted: Mounted) -> Iterable[Spot]:
        return [spot for spot in mounted.evidence(rehearsal).read if _decides(mounted, spot)]


@rule
class ReadsValue(Hazard):
    """``.item()`` or ``float(tensor)`` that fits into a graph."""

    captured = "warning"
    what = "takes a value out of a tensor (.item(), float(), int())"
    why = "Every step waits there until the device has computed it."
    fix = "Keep it a tensor: tensors of one value add, multiply and compare as numbers do."

    def spots(self, mounted: Mounted) -> Iterable[Spot]:
        read = mounted.evidence(rehearsal).read
        return [spot for spot in read if spot.name != "__bool__" and not _decides(mounted, spot)]


@rule
class ToCPU(Hazard):
    """Tensors sent to the CPU."""

    captured = "warning"
    what = "moves a tensor to the CPU in forward"
    why = "On a GPU every step waits for the copy, and what follows is computed slowly."
    fix = "Compute on the input's device; move constants there with .to(x.device)."

    def spots(self, mounted: Mounted) -> Iterable[Spot]:
        numpy = {spot.where for spot in mounted.evidence(rehearsal).numpy}
        return [spot for spot in mounted.evidence(rehearsal).cpu if spot.where not in numpy]


@rule
class ToNumpy(Hazard):
    """Tensors computed with in NumPy."""

    captured = "warning"
    what = "computes with a tensor in NumPy"
    why = "NumPy works on the CPU alone: a tensor on a GPU raises an error or is copied at every step."
    fix = "Use the torch function of the same name."

    def spots(self, mounted: Mounted) -> Iterable[Spot]:
        return mounted.evidence(rehearsal).numpy


@rule
class ReliesOnCaughtError(Hazard):
    """An exception that is caught and stands for a decision."""

    what = "relies on an error being caught"
    why = "In a graph the error is not raised where it is expected, so the block runs uncompiled."
    fix = "Ask beforehand what can be used, once in __init__, and call that."

    def spots(self, mounted: Mounted) -> Iterable[Spot]:
        source, rehearsed = mounted.evidence(code), mounted.evidence(rehearsal)
        for body in source.caught:
            if rehearsed.ran(source.handlers[int(body.name)]):
                stops = [stop for stop in mounted.evidence(capture).breaks if body.covers(stop.file, stop.line)]
                yield from (Spot("", body.file, stop.line, stop.line) for stop in stops)


@rule
class StepState(Hazard):
    """A counter, or another value that each step changes and the graph is built on."""

    severity = "error"
    what = "changes {name} at every step, and computes by it"
    why = "A graph is built on one value, so each step would be compiled anew; soon the compiler gives up."
    fix = "Take it out of forward; what depends on the step comes from outside, or as a tensor."

    def spots(self, mounted: Mounted) -> Iterable[Spot]:
        rehearsed = mounted.evidence(rehearsal)
        if _recompile(mounted, "step") is None:
            return []
        return [spot for spot in _writes(mounted) if spot.name in rehearsed.changing]

    def hits(self, subject: Mounted) -> Iterator[Hit]:
        yield from (Hit({"name": spot.name}, spot.where) for spot in self.ran(subject))


@rule
class StateInForward(Hazard):
    """State that a call leaves on the processor, its site or in a global."""

    captured = "warning"
    what = "sets {name} in forward"
    why = (
        "The processor is shared by its blocks, and a compiled block is also run uncompiled to compare them, so one "
        "call sees what another one left."
    )
    fix = "Make it in __init__, keep it in a local variable, or put it under “if not torch.compiler.is_compiling():”."

    def spots(self, mounted: Mounted) -> Iterable[Spot]:
        changed = mounted.evidence(rehearsal).changed
        counters = {spot.where for spot in StepState().spots(mounted)}
        return [spot for spot in _writes(mounted) if spot.name in changed and spot.where not in counters]

    def hits(self, subject: Mounted) -> Iterator[Hit]:
        yield from (Hit({"name": spot.name}, spot.where, "warning") for spot in self.ran(subject))


@rule
class HookOnProcessor(Rule):
    """Forward hooks on the processor or a module inside it."""

    layer = "hazards"
    subject = Mounted
    severity = "warning"
    what = "has a forward hook ({name})"
    why = "The graph holds the hooks of the moment at which it is built: one that is set or removed later is ignored."
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
    why = "The graph is built on its value of now; each new one is another graph."
    fix = "Keep it as an attribute that is set in __init__, or pass it as a tensor."

    def spots(self, mounted: Mounted) -> Iterable[Spot]:
        source = mounted.evidence(code)
        written = {spot.name for spot in source.global_writes}
        return [s for s in source.global_reads if source.rebound(s.name, s.file) and s.name not in written]


@rule
class GraphBreak(Rule):
    """A break that no other rule explains."""

    layer = "hazards"
    subject = Mounted
    what = "does not fit into one graph"
    why = "The compiler stops here: {reason}. The block runs uncompiled."
    fix = "Compute it in __init__, or express it with torch functions."

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
                yield Hit({"reason": reason}, stop.where if own else _forward(subject))


class Recompiles(Rule):
    """A rule on what makes a new graph necessary again and again."""

    layer: ClassVar[Layer] = "hazards"
    subject: ClassVar[type[Mounted]] = Mounted
    severity: ClassVar[Severity] = "warning"
    occasion: ClassVar[Occasion]

    def hits(self, subject: Mounted) -> Iterator[Hit]:
        found = _recompile(subject, self.occasion)
        if found is not None and not self.explained(subject):
            yield Hit({"reason": found.reason}, _line(subject, found))

    def explained(self, mounted: Mounted) -> bool:
        return False


@rule
class RecompilesPerStep(Recompiles):
    """Each step needs another graph, and no state was seen to change."""

    severity = "error"
    occasion = "step"
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
    why = "It uses a number of tokens as a plain number ({reason}), so each new size is compiled anew."
    fix = "Compute with tensors instead of loops, lists or tables over tokens: torch.arange(n), slices, broadcasting."


@rule
class RecompilesPerBlock(Recompiles):
    """Each block needs a graph of its own."""

    occasion = "block"
    what = "needs a graph of its own for every block"
    why = "It tells the modules apart ({reason}), so blocks cannot share a graph; soon the compiler gives up."
    fix = "Decide by shapes or settings instead of by the module; give each block its own processor where they differ."


def _fits(mounted: Mounted, spot: Spot) -> bool:
    """Whether every call that ran a place became one graph."""
    rehearsed, captured = mounted.evidence(rehearsal), mounted.evidence(capture)
    for lines, whole in ((rehearsed.plain, captured.plain), (rehearsed.masked, captured.masked)):
        ran = any((spot.file, line) in (lines or ()) for line in range(spot.first, spot.last + 1))
        if ran and whole is False:
            return False
    return True


def _decides(mounted: Mounted, spot: Spot) -> bool:
    """Whether a value that was read breaks the graph: bool() and lists do, numbers when they are branched on."""
    stops = mounted.evidence(capture).breaks
    stopped = any(spot.covers(stop.file, stop.line) for stop in stops)
    return stopped or (spot.name in ("__bool__", "tolist", "equal") and not _fits(mounted, spot))


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
