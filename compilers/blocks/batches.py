"""Which of the tensors that a block is called with carry the batch."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence

import torch

from ...checks.reaching.batches import Batched, FindBatched, Form, Forms

log = logging.getLogger(__name__)


#: The largest batch that one graph holds for. ComfyUI's attention computes larger ones in parts.
LARGEST = 2**15


class Batches:
    """Of one model's blocks, by path: found out when the first is compiled, by calling the model on fake tensors; and
    once more where a block is called in a form that did not show."""

    def __init__(self, find: FindBatched | None = None, paths: Collection[str] = ()):
        self._known: dict[str, Forms] = {path: {} for path in paths}
        self._more: Iterator[dict[str, Forms]] = find(paths) if find else iter(())

    def of(self, path: str, form: Form) -> Batched | None:
        """None where nobody knows, or no tensor carries it."""
        known = self._known.get(path, {})
        while form not in known:
            more = next(self._more, None)
            if more is None:
                return None
            for where, forms in more.items():
                self._known[where] = {**forms, **self._known.get(where, {})}
            known = self._known.get(path, {})
            log.debug("the batch is known at %d blocks", sum(any(forms.values()) for forms in self._known.values()))
        return known[form]


def form_of(tensors: Sequence[torch.Tensor]) -> Form:
    """In which form a block is called with them."""
    return tuple([tensor.ndim for tensor in tensors])


def carry(batch: Batched, tensors: Sequence[torch.Tensor]) -> bool:
    """Whether these tensors have one batch, where it is expected, and not too large a one."""
    sizes = {tensor.shape[0] for tensor, carries in zip(tensors, batch, strict=True) if carries}
    return len(sizes) == 1 and 0 < sizes.pop() <= LARGEST
