"""One call of a block in which foreign code runs: with which options, what it gave, and what it is given back where
the block is run a second time.

Foreign code may count its calls or draw random numbers, so it runs exactly once for each call of a block, however often
the block is run: compiled, and uncompiled to compare or because something failed.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from ..parity import Parity, compare
from ..tensors import tensors_of
from .call_form import CALL_FORMS, join, split_eager
from .result_form import Seen, parsed, promised, put_together, seen, take_apart
from .writers import WRITERS, same


class MadeDicts:
    """The dicts that one call of a block makes from its options, one for all that is called from it."""

    def __init__(self) -> None:
        self._made: dict[tuple[str, ...], tuple[dict[str, Any], dict[str, Any]]] = {}

    def __call__(self, options: dict[str, Any], dropped: tuple[str, ...], added: dict[str, Any]) -> dict[str, Any]:
        """The options without the keys that the block dropped and with what it added. Foreign code may write there:
        what the block gave before, and did not change since, stays as it is."""
        if dropped not in self._made:
            self._made[dropped] = ({key: value for key, value in options.items() if key not in dropped}, {})
        made, before = self._made[dropped]
        for key, value in added.items():
            if key not in before or not _equal(before[key], value):
                before[key] = made[key] = value
        return made


class OtherForm(Exception):
    """Foreign code did what the graph was not promised. The block goes on uncompiled, with what was computed."""


@dataclass
class Given:
    """What one call of foreign code gave: ``tensors`` of its result, in this ``structure``, and the values of what it
    wrote, by number of its argument. ``inputs`` are what it was called with, where that is kept."""

    role: str
    text: str | None
    structure: Any
    tensors: list[torch.Tensor]
    written: dict[int, torch.Tensor]
    inputs: list[torch.Tensor]


@dataclass(eq=False)
class BlockCall:
    """One call of a block, or, with ``played``, its second run.

    Args:
        options: the ``transformer_options`` that ComfyUI gave the block; foreign code gets these, and may write there.
        functions: foreign code by role.
        learn: notes what a call of a function gave, by role and text.
        inputs: those of the block.
        compared: whether a compiled run is to be compared with this one: arguments are kept too.
        played: what was given in the first run.
        made: the dicts that the block makes from the options.

    ``raised`` is what foreign code raised. ``met_unknown``: Dynamo traced a call in a form that was never seen.
    ``parities`` are how far arguments of the second run are from those of the first, and ``seconds`` what was spent in
    each role. ``lost``: why something could not be kept, for want of memory. ``options_given`` are the block's
    options while it runs uncompiled.
    """

    options: dict[str, Any]
    functions: dict[str, Callable]
    learn: Callable[[str, str | None, Seen, Callable], None]
    inputs: Any = ()
    compared: bool = False
    played: Sequence[Given] = ()
    made: MadeDicts = field(default_factory=lambda: MadeDicts())
    given: list[Given] = field(default_factory=list)
    raised: BaseException | None = None
    met_unknown: bool = False
    parities: list[Parity] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    lost: Exception | None = None
    calls: int = 0
    options_given: dict[str, Any] = field(default_factory=dict)

    def again(self) -> BlockCall:
        """The same call, for a second run: foreign code that ran already does not run again."""
        return BlockCall(
            self.options,
            self.functions,
            self.learn,
            self.inputs,
            played=self.given,
            made=self.made,
            seconds=self.seconds,
        )

    @contextmanager
    def running(self) -> Iterator[BlockCall]:
        """While it is open, operators in this thread belong to this call."""
        _running.stack.append(self)
        try:
            yield self
        finally:
            _running.stack.pop()

    # In a graph.

    def in_graph(
        self, tensors: list[torch.Tensor], numbers: list[int], role: str, text: str, form: str
    ) -> list[torch.Tensor]:
        """The results that were promised.

        Raises:
            OtherForm: when they are others.
        """
        played = self._next()
        if played is not None:
            self._compare(played, role, text, tensors)
            wanted = promised(form, tensors)
            if not _fits(played, form, tensors, wanted):
                raise OtherForm(role)
            return [_fresh(one, strides) for one, (_, strides, _) in zip(played.tensors, wanted, strict=True)]
        function = self.functions[role]
        is_known = WRITERS.writes(function)
        tensors = _without_twins(tensors)
        arguments = tensors if is_known is False else _clones(tensors)
        result = self._run(role, function, text, arguments, numbers)
        structure, found = take_apart(result)
        given = Given(role, text, structure, found, {}, [])
        self.given.append(given)  # before anything that there may be no memory for
        written = given.written = {} if is_known is False else _written(arguments, tensors)
        if is_known is None or written:
            WRITERS.note(function, bool(written))
        del result, arguments
        wanted = promised(form, tensors)
        fits = _fits(given, form, tensors, wanted)
        if not fits:
            sizes = tuple(tuple(one.shape) for one in tensors)
            self.learn(role, text, seen(sizes, put_together(structure, found)), function)
        outside = bool(written) and self._is_outside([tensors[number] for number in written])
        if outside:
            self.learn(role, text, Seen((), None, (), writes_outside=True), function)
        if not fits or outside or (is_known is None and written):
            raise OtherForm(role)
        given.tensors = _clones(found)
        del given
        return _handed_over(found, [strides for _, strides, _ in wanted])

    def _compare(self, played: Given, role: str, text: str, tensors: list[torch.Tensor]) -> None:
        if (played.role, played.text) != (role, text):
            raise OtherForm(role)
        if played.inputs:
            self.parities.append(compare(tensors, played.inputs))

    # Uncompiled.

    def uncompiled(self, role: str, function: Callable) -> Callable:
        """What takes the place of a foreign function while the block runs uncompiled."""

        def call(*args: Any, **kwargs: Any) -> Any:
            form, tensors, numbers = split_eager(args, kwargs, self.options_given)
            text = CALL_FORMS.text(form)
            played = self._next()
            if played is not None and played.role == role:
                for number, value in played.written.items():
                    tensors[number].copy_(value)
                return put_together(played.structure, played.tensors)
            return self._observed(role, function, text, form, tensors, numbers)

        return call

    def _observed(
        self, role: str, function: Callable, text: str | None, form: tuple, tensors: list, numbers: list[int]
    ) -> Any:
        is_known = WRITERS.writes(function)
        before = self._copies(tensors) if is_known is not False or self.compared else []
        sizes = tuple(tuple(one.shape) for one in tensors)
        result = self._run(role, function, form, tensors, numbers)
        written = _written(tensors, before) if is_known is not False and before else {}
        if before:
            WRITERS.note(function, bool(written))
        structure, found = take_apart(result)
        outside = bool(written) and self._is_outside([tensors[number] for number in written])
        self.learn(role, text, seen(sizes, result, outside), function)
        if self.compared:
            self.given.append(Given(role, text, structure, self._copies(found), written, before))
        return result

    def _copies(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        try:
            return _clones(tensors)
        except Exception as error:
            self.lost = error.with_traceback(None)
            return []

    # Both.

    def _is_outside(self, written: Sequence[torch.Tensor]) -> bool:
        """Whether any of these lies in the memory of what the block was given."""
        given = {one.untyped_storage().data_ptr() for one in tensors_of(self.inputs)}
        return any(one.untyped_storage().data_ptr() in given for one in written)

    def _next(self) -> Given | None:
        """What is played back for the next call; None when it is to run."""
        number, self.calls = self.calls, self.calls + 1
        return self.played[number] if number < len(self.played) else None

    def _run(
        self, role: str, function: Callable, form: str | tuple, tensors: Sequence[torch.Tensor], numbers: Sequence[int]
    ) -> Any:
        form = CALL_FORMS[form] if isinstance(form, str) else form
        args, kwargs = join(form, tensors, numbers, self.options, partial(self.made, self.options))
        start = time.perf_counter()
        try:
            return function(*args, **kwargs)
        except BaseException as error:
            self.raised = error
            raise
        finally:
            self.seconds[role] = self.seconds.get(role, 0.0) + time.perf_counter() - start


class _Running(threading.local):
    def __init__(self) -> None:
        self.stack: list[BlockCall] = []


_running = _Running()


def current() -> BlockCall:
    """The innermost call of a block that runs in this thread."""
    return _running.stack[-1]


def _equal(a: Any, b: Any) -> bool:
    return a is b or (not isinstance(a, torch.Tensor) and not isinstance(b, torch.Tensor) and bool(a == b))


def _fits(given: Given, form: str, tensors: Sequence[torch.Tensor], wanted: Sequence[tuple]) -> bool:
    """Whether what was given has the form that was promised; how it lies in memory does not matter. ``wanted``: sizes,
    strides and dtype of each tensor."""
    return given.structure == parsed(form)[0] and all(
        list(one.shape) == sizes and one.dtype == dtype and one.device == tensors[0].device
        for one, (sizes, _, dtype) in zip(given.tensors, wanted, strict=True)
    )


def _without_twins(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    """Tensors that are the same one as the same object, as they are where no compiler handed them over."""
    first: dict[tuple, torch.Tensor] = {}
    return [
        first.setdefault((one.data_ptr(), one.shape, one.stride(), one.dtype) if one.numel() else (id(one),), one)
        for one in tensors
    ]


def _clones(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    clones = {id(one): one.clone() for one in {id(one): one for one in tensors}.values()}
    return [clones[id(one)] for one in tensors]


def _written(after: Sequence[torch.Tensor], before: Sequence[torch.Tensor]) -> dict[int, torch.Tensor]:
    pairs = enumerate(zip(after, before, strict=True))
    return {number: one.clone() for number, (one, other) in pairs if not same(one, other)}


def _handed_over(found: list[torch.Tensor], wanted: Sequence[list[int]]) -> list[torch.Tensor]:
    """Results as the graph may do with them what it likes: with the promised strides, and nobody else's."""
    for number, strides in enumerate(wanted):
        # Counted: the list, and the argument of `getrefcount`.
        held = sys.getrefcount(found[number]) > 2 or _is_shared(found[number])
        if held or list(found[number].stride()) != strides:
            found[number] = _fresh(found[number], strides)
    return found


def _is_shared(tensor: torch.Tensor) -> bool:
    """Whether others may use the same memory: tensors, or what a tensor was made from, such as an array."""
    storage = tensor.untyped_storage()
    # Counted: the tensor's, and that of `storage`.
    return torch._C._storage_Use_Count(storage._cdata) > 2 or not storage.resizable()


def _fresh(tensor: torch.Tensor, strides: Sequence[int]) -> torch.Tensor:
    copy = torch.empty_strided(tensor.shape, strides, dtype=tensor.dtype, device=tensor.device)
    return copy.copy_(tensor)
