"""Rules on whether a module can be called at all.

OneDiff meets such a module in the middle of a compiled graph and fails with a bare NotImplementedError
(siliconflow/onediff#873).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from torch import nn

from ..patching.explicit_forward import is_repaired, needs_repair, only_raises, overrides_call
from .rule import Hit, Layer, Rule, Subject, rule


class Completeness(Rule):
    """A rule on a module's class. An instance's own ``forward`` counts as complete."""

    layer: ClassVar[Layer] = "completeness"

    def applies(self, cls: type[nn.Module]) -> bool:
        raise NotImplementedError

    def hits(self, subject: Subject) -> Iterator[Hit]:
        if "forward" not in subject.module.__dict__ and self.applies(type(subject.module)):
            yield Hit()


@rule
class NoForward(Completeness):
    """The class has no ``forward`` but the one that every nn.Module inherits, which raises."""

    what = "has no forward"
    why = "Calling it raises NotImplementedError."
    fix = (
        "Define it in the class: for attention forward(self, q, k, v, heads, mask=None, **kwargs), which returns "
        "(batch, tokens, channels), as docs/my_attention.py does; else with the arguments of what it replaces."
    )

    def applies(self, cls: type[nn.Module]) -> bool:
        return cls.forward is nn.Module.forward and not overrides_call(cls)


@rule
class ForwardOnlyRaises(Completeness):
    """``forward`` is there, but all it does is raise NotImplementedError, or it is abstract."""

    what = "has a forward that only raises NotImplementedError"
    why = "Calling it raises that error; the computation was never written or sits in a subclass."
    fix = "Write the computation in forward, or use the subclass that has it."

    def applies(self, cls: type[nn.Module]) -> bool:
        return cls.forward is not nn.Module.forward and not overrides_call(cls) and only_raises(cls.forward)


@rule
class CallInsteadOfForward(Completeness):
    """``__call__`` does the work, and ``forward`` is missing or only raises. See patching/explicit_forward.py."""

    severity = "note"
    what = "overrides __call__ instead of forward"
    why = "Compilers and hooks go through forward; it is given an explicit one, which is its __call__, and is compiled."
    fix = "Nothing has to be done. Renaming __call__ to forward makes it work everywhere else, too."

    def applies(self, cls: type[nn.Module]) -> bool:
        return needs_repair(cls) or is_repaired(cls)
