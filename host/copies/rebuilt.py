"""The model that a ControlLoRA makes anew at each sampling, from the model that is sampled and its own weights.

Its classes are made anew too, so that nothing that was compiled would fit. The first one is kept, and is given the
weights of each later one; between samplings it has none, so that it takes no memory.
"""

from __future__ import annotations

from torch import nn


class Rebuilt:
    """The one that is kept."""

    def __init__(self) -> None:
        self._kept: nn.Module | None = None
        self._made_as: tuple = ()

    def with_weights_of(self, made: nn.Module) -> nn.Module:
        """The kept model with the weights of one that was just made; that one itself where it is built otherwise."""
        built = _built(made)
        if self._kept is None or built != self._made_as:
            self._kept, self._made_as = made, built
            return made
        for ours, theirs in zip(self._kept.modules(), made.modules(), strict=True):
            for own, other in ((ours._parameters, theirs._parameters), (ours._buffers, theirs._buffers)):
                own.clear()
                own.update(other)  # type: ignore[arg-type]
        return self._kept

    def let_go(self) -> None:
        """Drops the weights."""
        for module in self._kept.modules() if self._kept is not None else ():
            for name in module._parameters:
                module._parameters[name] = None


def _built(model: nn.Module) -> tuple:
    """What two models must share to be the same but for their weights."""
    modules = [(path, type(module).__name__, repr(module.extra_repr())) for path, module in model.named_modules()]
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return (*modules, *((name, tuple(t.shape), t.dtype, t.device) for name, t in tensors))
