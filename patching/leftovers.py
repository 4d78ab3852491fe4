"""Tensors without numbers that a person's code has kept of a look at it, in places that nobody can look into.

A processor may keep a table in a ``functools.lru_cache``, in a dict of a class of its own, in an object with slots or
with its thread. What is put there while it is called without numbers would be used in a picture: it has no memory, so
that the result is wrong, or the process ends.
"""

from __future__ import annotations

import functools
import gc
import threading
import types
import weakref
from collections.abc import Iterable
from typing import Any

import torch

_CACHE: Any = type(functools.lru_cache(lambda: None))
#: What holds something only while it is looked at, or is put back by whoever looks.
_PASSING: tuple[type, ...] = (types.FrameType, types.TracebackType, types.ModuleType, types.FunctionType)

#: How far up it is looked for who holds a tensor, and how often: that takes a tenth of a second.
LEVELS, MOST_LOOKS = 3, 4

#: Holders are found through all objects of the process: two threads at it would find each other.
_LOCK = threading.Lock()


class Leftovers:
    """Of one processor. ``made`` is what was made while its code ran."""

    def __init__(self) -> None:
        self.made: list[weakref.ref[torch.Tensor]] = []
        self._holders: list[Any] = []
        self._looks = 0

    def let_go(self) -> None:
        """Takes what is left of it out of where it was kept. The caller may hold nothing of it."""
        alive = self._alive()
        if not alive:
            return
        for holder in self._holders:
            _take_out(holder, alive)
        del alive
        alive = self._alive()
        if alive and self._looks < MOST_LOOKS:
            self._looks += 1
            with _LOCK:
                found = _holders_of(alive)
            for holder in found:
                _take_out(holder, alive)
            self._holders += found
        self.made.clear()

    def _alive(self) -> list[torch.Tensor]:
        return [tensor for one in self.made if (tensor := one()) is not None]


def _holders_of(tensors: list[torch.Tensor]) -> list[Any]:
    """Caches and other objects in which tensors, or what they are in, are kept."""
    found: list[Any] = []
    targets: list[Any] = tensors
    for _ in range(LEVELS):
        ours = {id(found), id(targets), id(tensors)}
        nexts: list[Any] = []
        for holder in gc.get_referrers(*targets):
            if id(holder) in ours or isinstance(holder, _PASSING):
                continue
            if type(holder) is _CACHE or _is_kept(holder, targets):
                found.append(holder)
            elif isinstance(holder, tuple | list | set | frozenset) or type(holder).__module__ == "functools":
                nexts.append(holder)
            elif type(holder) is dict:
                nexts.append(holder)  # that of a cache, perhaps
        targets = nexts
        if not targets:
            break
    return found


def _is_kept(holder: Any, targets: Iterable[Any]) -> bool:
    """Whether something is a place that is not put back by whoever looks, and holds one of the targets."""
    if isinstance(holder, dict):
        if type(holder) is not dict:
            return True
        ids = {id(one) for one in targets}
        keys = [key for key, value in dict.items(holder) if id(value) in ids]
        # A namespace has names; that of a thread's own is held by nothing that can be seen.
        return bool(keys) and (not all(isinstance(key, str) for key in keys) or _is_threads(holder))
    return bool(_slots_of(holder))


def _is_threads(namespace: dict[Any, Any]) -> bool:
    return not [one for one in gc.get_referrers(namespace) if not isinstance(one, types.FrameType | list)]


def _slots_of(holder: Any) -> list[str]:
    names: list[str] = []
    for cls in type.__dict__["__mro__"].__get__(type(holder)):
        slots = type.__dict__["__dict__"].__get__(cls).get("__slots__", ())
        names += [slots] if isinstance(slots, str) else [name for name in slots if isinstance(name, str)]
    return [name for name in names if not name.startswith("__")]


def _take_out(holder: Any, tensors: list[torch.Tensor]) -> None:
    if type(holder) is _CACHE:
        holder.cache_clear()
        return
    ids = {id(one) for one in tensors}
    if isinstance(holder, dict):
        for key in [key for key, value in dict.items(holder) if _holds(value, ids)]:
            dict.__delitem__(holder, key)
        return
    for name in _slots_of(holder):
        slot = next((vars(cls).get(name) for cls in type(holder).__mro__ if name in vars(cls)), None)
        if isinstance(slot, types.MemberDescriptorType):
            try:
                kept = slot.__get__(holder)
            except AttributeError:  # nothing is in it
                continue
            if _holds(kept, ids):
                slot.__set__(holder, None)


def _holds(value: Any, ids: set[int]) -> bool:
    """Whether something is one of these objects, or a plain container that has one in it."""
    if type(value) in (tuple, list, set, frozenset):
        return any(_holds(one, ids) for one in value)
    return id(value) in ids
