"""Rules on what a graph cannot hold, or holds at a cost: calls, and values that leave their tensors."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from ..mounted import Mounted
from ..rule import rule
from .capture import capture
from .code import code
from .hazard import Hazard, fits
from .rehearsal import rehearsal
from .spots import Spot


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
    why = "A graph holds computation only. It would be cut here, so it runs uncompiled."
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
    why = "A graph cannot hold it, so it runs uncompiled, and every step waits for the disk."
    fix = "Load it in __init__ and keep it as an attribute or buffer; save results after sampling, in a node."


@rule
class Clock(Calls):
    """Reading the time."""

    functions = ("time.", "datetime.")
    what = "reads the clock ({name}) in forward"
    why = "A graph cannot hold it, so it runs uncompiled."
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
    why = "Inside a graph there are no frames, threads or collections to look at, so it runs uncompiled."
    fix = "Do it in __init__ and keep the result as an attribute, or pass the value as an argument."


@rule
class ReadsEnvironment(Calls):
    """Environment variables."""

    captured = "warning"
    functions = ("os.environ", "os.getenv", "os.environb")
    what = "reads an environment variable in forward"
    why = "The graph keeps the value that it was built with; a later change is ignored without a word."
    fix = "Read it once in __init__ and keep it as an attribute."


@rule
class CompilerDisabled(Calls):
    """A function that asks not to be compiled."""

    functions = ("disabled ",)
    what = "calls {name}, which is marked torch.compiler.disable"
    why = "Such a function is left out of every graph, so it runs uncompiled."
    fix = "Take @torch.compiler.disable off, or register the function with torch.library.custom_op and register_fake."


@rule
class OpaqueKernel(Calls):
    """Code that no compiler can look into."""

    functions = ("ctypes.", "_ctypes.", "cffi.", "numba.", "cupy.", "torch.ops.", "torch._ops.", "torch._library.")
    what = "calls {name}, which a graph cannot look into"
    why = "The compiler knows neither the shape of its result nor what it changes, so it runs uncompiled."
    fix = "Register it with torch.library.custom_op, and its result's shape with register_fake."


@rule
class ScriptedModule(Calls):
    """A module made by torch.jit. Scripted functions fit into a graph, scripted modules do not."""

    functions = ("torch.jit.",)
    what = "calls {name}, a scripted or traced module"
    why = "The compiler cannot look into a module made by torch.jit, so it runs uncompiled."
    fix = "Use the module as it was before scripting, since the compiler does the same work; or script a function."


@rule
class DependsOnValues(Hazard):
    """A branch, a loop or a list that depends on the values in a tensor."""

    what = "decides, loops or makes Python values by the numbers in a tensor ({name})"
    why = "A graph takes the same way for all numbers. It would be cut here, so it runs uncompiled."
    fix = "Compute both ways and choose: torch.where(condition, one, other); or decide by a shape or a setting."

    def spots(self, mounted: Mounted) -> Iterable[Spot]:
        return [spot for spot in mounted.evidence(rehearsal).read if _decides(mounted, spot)]


@rule
class ReadsValue(Hazard):
    """``.item()`` or ``float(tensor)`` that fits into a graph."""

    captured = "warning"
    what = "takes a value out of a tensor ({name})"
    why = "Every step waits there until the device has computed it."
    fix = (
        "Keep it a tensor: tensors of one value add, multiply and compare as numbers do, and "
        "torch.where(condition, one, other) chooses."
    )

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
    fix = "Use the torch function of the same name: torch.clip for np.clip."

    def spots(self, mounted: Mounted) -> Iterable[Spot]:
        return mounted.evidence(rehearsal).numpy


@rule
class ReliesOnCaughtError(Hazard):
    """An exception that is caught and stands for a decision."""

    what = "relies on an error being caught"
    why = "In a graph the error is not raised where it is expected, so it runs uncompiled."
    fix = "Ask beforehand what can be used, once in __init__, and call that."

    def spots(self, mounted: Mounted) -> Iterable[Spot]:
        source, rehearsed = mounted.evidence(code), mounted.evidence(rehearsal)
        for body in source.caught:
            if rehearsed.ran(source.handlers[int(body.name)]):
                stops = [stop for stop in mounted.evidence(capture).breaks if body.covers(stop.file, stop.line)]
                yield from (Spot("", body.file, stop.line, stop.line) for stop in stops)


def _decides(mounted: Mounted, spot: Spot) -> bool:
    """Whether a value that was read breaks the graph: bool() and lists do, numbers when they are branched on."""
    stops = mounted.evidence(capture).breaks
    stopped = any(spot.covers(stop.file, stop.line) for stop in stops)
    return stopped or (spot.name in ("__bool__", "tolist", "equal") and not fits(mounted, spot))
