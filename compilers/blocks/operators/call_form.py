"""In which form foreign code is called: what of a call are tensors and numbers, which differ from run to run, and what
is fixed.

A block hands a patch more than tensors: numbers of heads, a mask that is None, ComfyUI's attention function, and
``transformer_options`` or a dict that it made from them. An operator of a graph takes tensors, numbers and texts. So a
call is split into tensors, numbers and the rest, its *form*, which goes by a text that is the same in every process.
The split runs in two ways: while a block runs uncompiled, and inside Dynamo, which traces it away.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

#: Key in a block's ``transformer_options`` that says which keys the others are. A dict that has it was made from them.
MARK = "onediff_keys"

#: Name of the argument in which blocks pass the options themselves. Under any other one it is a dict of their own.
OPTIONS_ARGUMENT = "transformer_options"

#: Forms that one kind of call may have: each function that is made anew for every call would be another.
MOST_FORMS = 64

#: Form of a part that no operator can take.
OPAQUE = ("opaque",)

Form = tuple
Split = tuple[Form, list[torch.Tensor], list[int]]


def split_traced(args: tuple, kwargs: dict[str, Any]) -> Split:
    """The form of a call, its tensors and its numbers. Dynamo traces this: plain code only."""
    tensors: list[torch.Tensor] = []
    numbers: list[int] = []
    parts = (_part(args, "", tensors, numbers, _options_traced), _part(kwargs, "", tensors, numbers, _options_traced))
    return ("tuple", parts), tensors, numbers


def split_eager(args: tuple, kwargs: dict[str, Any], options: dict[str, Any]) -> Split:
    """The same for a call that runs now. ``options`` are those that the block was given."""
    tensors: list[torch.Tensor] = []
    numbers: list[int] = []

    def options_eager(value: dict, name: str, tensors: list, numbers: list, made: Callable) -> Form | None:
        own = {str(key): item for key, item in dict.items(value)}
        if MARK not in own:
            return None
        if name == OPTIONS_ARGUMENT:
            return ("options",)
        before = {str(key): item for key, item in dict.items(options)}
        dropped = tuple(sorted(key for key in before if key not in own and key != MARK))
        added = {key: item for key, item in own.items() if key != MARK and before.get(key, MARK) is not item}
        return ("made", dropped, _items(added, tensors, numbers, made))

    parts = (_part(args, "", tensors, numbers, options_eager), _part(kwargs, "", tensors, numbers, options_eager))
    return ("tuple", parts), tensors, numbers


def _part(value: Any, name: str, tensors: list, numbers: list, options: Callable) -> Form:
    if isinstance(value, torch.Tensor):
        tensors.append(value)
        return ("tensor", len(tensors) - 1)
    if isinstance(value, bool | float):  # apart, because True == 1.0
        return ("flag" if isinstance(value, bool) else "factor", value)
    if value is None or isinstance(value, str | torch.dtype | torch.device):
        return ("fixed", value)
    if isinstance(value, int):
        numbers.append(value)
        return ("number", len(numbers) - 1)
    if isinstance(value, tuple):
        return ("tuple", tuple([_part(item, "", tensors, numbers, options) for item in value]))
    if isinstance(value, list):
        return ("list", tuple([_part(item, "", tensors, numbers, options) for item in value]))
    if isinstance(value, dict):
        made = options(value, name, tensors, numbers, options)
        return made if made is not None else ("dict", _items(value, tensors, numbers, options))
    return ("fixed", value) if callable(value) else OPAQUE


def _items(items: dict, tensors: list, numbers: list, options: Callable) -> Form:
    return tuple([(str(key), _part(item, key, tensors, numbers, options)) for key, item in items.items()])


def _options_traced(value: dict, name: str, tensors: list, numbers: list, options: Callable) -> Form | None:
    if MARK not in value:
        return None
    if name == OPTIONS_ARGUMENT:
        return ("options",)
    given = value[MARK]
    dropped = tuple(sorted([key for key in given if key not in value]))
    added = {key: item for key, item in value.items() if key != MARK and key not in given}
    return ("made", dropped, _items(added, tensors, numbers, options))


def join(
    form: Form,
    tensors: Sequence[torch.Tensor],
    numbers: Sequence[int],
    options: dict[str, Any],
    made: Callable[[tuple[str, ...], dict[str, Any]], dict[str, Any]],
) -> Any:
    """The value that was split into these. ``options`` take the place of those that were handed on; ``made(dropped,
    added)`` that of a dict which the block made from them."""

    def joined(part: Form) -> Any:
        kind = part[0]
        if kind == "tensor":
            return tensors[part[1]]
        if kind == "number":
            return int(numbers[part[1]])
        if kind in ("fixed", "flag", "factor"):
            return part[1]
        if kind in ("tuple", "list"):
            items = [joined(item) for item in part[1]]
            return tuple(items) if kind == "tuple" else items
        if kind == "dict":
            return {key: joined(item) for key, item in part[1]}
        if kind == "options":
            return options
        return made(part[1], {key: joined(item) for key, item in part[2]})

    return joined(form)


def is_opaque(form: Form) -> bool:
    """Whether a part of the call cannot be handed to an operator."""
    return form == OPAQUE or any(is_opaque(part) for part in form if isinstance(part, tuple))


class CallForms:
    """Forms of calls by their texts. What a text means is fixed by the form that had it first; another form that reads
    the same, because two functions have the same name, has a number behind it."""

    def __init__(self) -> None:
        self._texts: dict[Form, str] = {}
        self._forms: dict[str, Form] = {}

    def text(self, form: Form) -> str | None:
        """The text of a form; None when a part of it cannot be handed on, or too many read the same."""
        if is_opaque(form):
            return None
        try:
            known = self._texts.get(form)
        except TypeError:  # a part of it cannot be hashed
            return None
        if known is not None:
            return known
        written = _written(form)
        texts = [written, *(f"{written} #{number}" for number in range(2, MOST_FORMS))]
        free = next((text for text in texts if text not in self._forms), None)
        if free is not None:
            self._texts[form], self._forms[free] = free, form
        return free

    def __getitem__(self, text: str) -> Form:
        return self._forms[text]


def _written(part: Any) -> str:
    if isinstance(part, tuple):
        return f"({' '.join(_written(item) for item in part)})"
    if callable(part) and not isinstance(part, type):
        named = getattr(part, "__qualname__", None) or type(part).__qualname__
        return f"{getattr(part, '__module__', '?')}:{named}"
    return repr(part) if isinstance(part, str) else str(part)


CALL_FORMS = CallForms()
