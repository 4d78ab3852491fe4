"""Which of the tensors that a block is called with carry the batch."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence

import torch

from ...checks.reaching.batches import Batched, FindBatched

log = logging.getLogger(__name__)


class Batches:
    """Of one model's blocks, by path: found out when the first is compiled, by calling the model on fake tensors."""

    def __init__(self, find: FindBatched | None = None, paths: Collection[str] = ()):
        self._find = find
        self._paths = paths
        self._known: dict[str, Batched] | None = None

    def of(self, path: str) -> Batched | None:
        """None where nobody knows, or no tensor carries it."""
        if self._known is None:
            self._known = self._find(self._paths) if self._find else {}
            log.debug("the batch is known at %d of %d blocks", len(self._known), len(self._paths))
        found = self._known.get(path)
        return found if found and any(found) else None


def carry(batch: Batched, tensors: Sequence[torch.Tensor]) -> bool:
    """Whether these tensors have one batch, where it is expected."""
    if len(batch) != len(tensors):
        return False
    sizes = {tensor.shape[0] if tensor.ndim else 0 for tensor, carries in zip(tensors, batch, strict=True) if carries}
    return len(sizes) == 1 and 0 not in sizes
