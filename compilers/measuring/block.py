"""What is known of one block of a model, whoever found it out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from ...processors.overriding import is_repeatable
from ..blocks.parity import Parity
from ..blocks.regions import Region
from ..blocks.shared_graph import SharedGraph
from .class_gain import ClassGain


@dataclass(frozen=True)
class Operator:
    """Foreign code in a compiled block: ``what`` it is in words, ``where`` it comes from, and the milliseconds that it
    took, None where a device works behind Python."""

    what: str
    where: str
    ms: float | None


class Block:
    """One block, as it is known since the model was prepared.

    Args:
        sites: the modules in it that compute attention.
        reason: why it is not compiled at all, None while nothing speaks against it.
        without_operators: why not, by a backend whose graphs hold no operators.

    ``skipped`` says why it ran uncompiled in this sampling although it could be compiled; ``postponed``, that it waits
    for the next one. ``called`` says whether the model calls it, as far as is known, and ``calls`` how often in the
    last step. ``functions`` is the code that ran in it then, ``compared`` all code of which a compiled run was
    compared; ``parity`` is None until the first was. ``weight`` is how many milliseconds of a step it took uncompiled,
    when it was watched last; 0 before.
    ``graphs`` are the compiled graphs of its variants.
    ``casts_weights`` says that its weights are resolved before it runs compiled, because the model is only partly
    loaded; ``in_dynamic_vram`` that ComfyUI's dynamic VRAM looks after them. ``gain`` is what compiling gains for its
    class, with the ``functions`` that run in it now. ``operators`` is the foreign code that ran inside the compiled
    block last, by role. ``places`` are ``sites`` by their names in it. ``takes_lists``: it was given
    lists that it may change.
    """

    def __init__(
        self,
        region: Region,
        sites: Sequence[nn.Module] = (),
        reason: str | None = None,
        without_operators: str | None = None,
    ):
        self.path = region.path
        self.module: nn.Module = region.module
        self.signature = region.signature
        self.sites = sites
        self.reason = reason
        self.without_operators = without_operators
        names = {id(module): name for name, module in region.module.named_modules()}
        self.places = {names[id(site)]: site for site in sites if id(site) in names}
        self.skipped: str | None = None
        self.postponed = False
        self.ran = False
        self.called = True
        self.calls = 0
        self.weight = 0.0
        self.functions: tuple = ()
        self.compared: set[tuple] = set()
        self.parity: Parity | None = None
        self.graphs: dict[tuple, SharedGraph] = {}
        self.gain = ClassGain()
        self.casts_weights = False
        self.in_dynamic_vram = False
        self.operators: dict[str, Operator] = {}
        self.takes_lists = False

    def begin_sampling(self) -> None:
        self.ran = False
        self.skipped = None
        self.postponed = False
        self.casts_weights = False
        self.operators = {}

    @property
    def kind(self) -> str:
        """The name of its class, for people."""
        return type(self.module).__name__

    @property
    def uncompiled_because(self) -> str | None:
        """Why the block runs uncompiled, None when it does not."""
        return self.reason or self.skipped or self.gain.reason

    @property
    def runs_own_code(self) -> bool:
        """Whether no forward in it was replaced in the last step."""
        return self.is_own(self.functions)

    def is_own(self, functions: tuple) -> bool:
        """Whether this is the code of its class and no other."""
        return functions == (type(self.module).forward,)

    def keeps_nothing(self, functions: tuple) -> bool:
        """Whether they are the code of its class, and kernels of this pack: no processor that a person wrote."""
        own = type(self.module).forward
        return all(function is own or is_repeatable(function) for function in functions)

    @property
    def pending(self) -> bool:
        """Whether it is still to be compiled and compared, with what sits on it in the last step."""
        is_new = self.postponed or not (self.functions in self.compared or self.uncompiled_because)
        return is_new and self.gain.reason is None

    @property
    def compiled(self) -> bool:
        """Whether it runs compiled, and the result was compared."""
        return self.parity is not None and not self.uncompiled_because and not self.pending

    @property
    def left_for_no_gain(self) -> bool:
        """Whether it runs uncompiled because its class gains nothing, and for no other reason."""
        return self.gain.reason is not None and not (self.reason or self.skipped)
