"""What may enter a region of the ``transformer_options`` that ComfyUI passes to every block.

The dict is full of things that change: block numbers, noise levels, conditioning ids, patches, other packs' keys.
Compiled as it is, it costs a recompile a block; with its guards dropped, later patches are ignored. So the block is
watched once, uncompiled, to learn which keys its own code reads. Afterwards only those are looked at, before the block
runs: a patch on the block makes it run uncompiled, a plain value becomes part of the compiled variant's key, a tensor
(the noise level of a step) is one more input of the graph, the rest never enters.
"""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, KeysView, ValuesView
from typing import Any

import torch

from ...patching.foreign import BLOCK_PATCHES, OVERRIDE, origin

#: Keys that only say where in the model a block is. Blocks read them to look up patches, which are resolved here.
POSITION_KEYS = frozenset({"block", "block_index", "block_type", "total_blocks", "transformer_index"})

#: A list of which prompts are in the batch, in order: 0 is the one that is wanted, 1 the negative one.
PROMPTS = "cond_or_uncond"

PATCHES = "patches"
REPLACEMENTS = "patches_replace"


#: Keys whose values are dealt with before a block runs, or say nothing.
_RESOLVED = POSITION_KEYS | {PATCHES, REPLACEMENTS, OVERRIDE}


class _CopiedKey(str):
    """A key handed out while the dict was iterated. Looking it up copies the dict and tells nothing of the block. The
    copy keeps it as its key, so a look-up there compares with it, and is noted."""

    read: set[str]

    def __eq__(self, other: object) -> bool:
        equal = str.__eq__(self, other) is True
        if equal and not isinstance(other, _CopiedKey):
            self.read.add(str(self))
        return equal

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = str.__hash__


class Reads:
    """Which keys a block's own code read and wrote; ``patches`` and ``replacements`` are the names that it looked up in
    those two dicts."""

    def __init__(self) -> None:
        self.keys: set[str] = set()
        self.written: set[str] = set()
        self.patches: set[str] = set()
        self.replacements: set[str] = set()

    def add(self, other: Reads) -> None:
        self.keys |= other.keys
        self.written |= other.written
        self.patches |= other.patches
        self.replacements |= other.replacements


def watched(options: dict[str, Any], reads: Reads, original: dict[str, Any] | None = None) -> WatchedOptions:
    """``options`` for one uncompiled run of a block, noting into ``reads`` what the block reads and writes. The two
    dicts of patches are there even when empty, so that the block's look-ups in them are seen. What the block writes
    reaches ``original`` too, without which ``options`` are meant."""
    copy = dict(options)
    copy[PATCHES] = WatchedOptions(options.get(PATCHES) or {}, reads.patches, set())
    copy[REPLACEMENTS] = WatchedOptions(options.get(REPLACEMENTS) or {}, reads.replacements, set())
    return WatchedOptions(copy, reads.keys, reads.written, options if original is None else original)


class WatchedOptions(dict):
    """A dict that notes the keys that are read and written.

    A copy notes its reads here too; what is written into the copy concerns nobody.
    """

    def __init__(
        self, options: dict[str, Any], read: set[str], written: set[str], original: dict[str, Any] | None = None
    ):
        super().__init__(options)
        self.read = read
        self.written = written
        self._original = {} if original is None else original

    def _note(self, key: Any) -> Any:
        """Notes a look-up, and returns the key to look up."""
        if isinstance(key, _CopiedKey):
            return str(key)
        self.read.add(key)
        return key

    def _copied(self, key: Any) -> Any:
        if not isinstance(key, str):
            return key
        copied = _CopiedKey(key)
        copied.read = self.read
        return copied

    def __getitem__(self, key: Any) -> Any:
        return super().__getitem__(self._note(key))

    def get(self, key: Any, default: Any = None) -> Any:
        return super().get(self._note(key), default)

    def __contains__(self, key: Any) -> bool:
        return super().__contains__(self._note(key))

    def __iter__(self) -> Iterator[str]:
        return iter([self._copied(key) for key in super().__iter__()])

    def keys(self) -> KeysView:  # type: ignore[override]
        return KeysView(self)

    def items(self) -> ItemsView:  # type: ignore[override]
        return ItemsView(self)

    def values(self) -> ValuesView:  # type: ignore[override]
        return ValuesView(self)

    def copy(self) -> WatchedOptions:
        return WatchedOptions(dict(super().items()), self.read, set())

    def __setitem__(self, key: Any, value: Any) -> None:
        key = str(key) if isinstance(key, _CopiedKey) else key
        self.written.add(key)
        self._original[key] = value
        super().__setitem__(key, value)

    def update(self, *args: Any, **kwargs: Any) -> None:
        for key, value in dict(*args, **kwargs).items():
            self[key] = value

    def pop(self, key: Any, *default: Any) -> Any:
        key = self._note(key)
        self.written.add(key)
        self._original.pop(key, None)
        return super().pop(key, *default)

    def setdefault(self, key: Any, default: Any = None) -> Any:
        key = self._note(key)
        if not super().__contains__(key):
            self[key] = default
        return super().__getitem__(key)

    def __delitem__(self, key: Any) -> None:
        self.pop(key)

    def __ior__(self, other: Any) -> WatchedOptions:  # type: ignore[misc, override]
        self.update(other)
        return self


class Unfit(str):
    """A reason why a block runs uncompiled this time."""

    __slots__ = ()


def resolve(options: dict[str, Any], reads: Reads) -> dict[str, Any] | Unfit:
    """The part of ``options`` that enters the compiled block, or the reason why it must run uncompiled.

    Values in the result are plain, or tensors: see ``in_key``.
    """
    return acting(options, reads) or plain(options, reads)


def plain(options: dict[str, Any], reads: Reads) -> dict[str, Any] | Unfit:
    """The same, whatever foreign code acts on the block."""
    if reads.written:
        return Unfit(f"it writes to transformer_options: {', '.join(sorted(map(str, reads.written)))}.")
    entering: dict[str, Any] = {}
    for key in reads.keys:
        if key in _RESOLVED or key not in options:
            continue
        value = options[key]
        is_tensor = type(value) is torch.Tensor
        is_prompts = key == PROMPTS and type(value) is list and all(type(one) is int for one in value)
        if not (is_tensor or is_prompts or isinstance(value, bool | int | float | str | None)):
            return Unfit(f"it reads transformer_options[{key!r}], a {type(value).__name__} that may change every step.")
        entering[key] = value
    return entering


def in_key(entering: dict[str, Any]) -> tuple:
    """What enters, as a part of the key of the compiled variant: plain values themselves, and which are tensors. A
    graph is given those anew in each run."""
    if not entering:
        return ()
    values = {key: "a tensor" if isinstance(value, torch.Tensor) else value for key, value in entering.items()}
    return tuple(sorted((key, tuple(value) if type(value) is list else value) for key, value in values.items()))


def acting(options: dict[str, Any], reads: Reads) -> Unfit | None:
    """What another node has put on a block that reads this, None when nothing."""
    override = options.get(OVERRIDE)
    if override is not None:
        return Unfit(f"another node replaced attention: {origin(override)}.")
    patches = options.get(PATCHES) or {}
    for name in reads.patches & patches.keys():
        if patches[name]:
            return Unfit(f"another node put a {BLOCK_PATCHES.get(name, name)} on it: {origin(patches[name][0])}.")
    replacements = options.get(REPLACEMENTS) or {}
    for name in reads.replacements & replacements.keys():
        function = replacement(replacements[name], options)
        if function is not None:
            return Unfit(f"another node replaced {name} in it: {origin(function)}.")
    return None


def carries_foreign(options: dict[str, Any]) -> bool:
    """Whether another node put an override, a patch or a replacement anywhere in the model."""
    if options.get(OVERRIDE) is not None:
        return True
    return any((options.get(PATCHES) or {}).values()) or any((options.get(REPLACEMENTS) or {}).values())


def replacement(by_block: dict | None, options: dict[str, Any]) -> Any:
    """The replacement that concerns the block that is about to run: keyed (name, number, index) or (name, number)."""
    if not by_block:
        return None
    block = options.get("block")
    if block is None:
        return next(iter(by_block.values()))
    exact = (block[0], block[1], options.get("block_index", 0))
    return by_block.get(exact, by_block.get(block))
