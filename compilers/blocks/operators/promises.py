"""What is promised to graphs of the results of foreign code, learned from calls that ran uncompiled, and the functions
that stand in its place while Dynamo traces a block.

Kept for the process and by kind of block: a stand-in that was another one for each model would be compiled anew for it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import torch

from ....patching.foreign import HOSTS_OWN, origin
from . import block_call
from .call_form import CALL_FORMS, Form, split_traced
from .opaque import ORDER, registered
from .result_form import MOST_SEEN, Seen, fitting, is_strange, parsed, promised, put_together

#: Times that a function's results may turn out to have another form before its blocks run uncompiled.
MOST_CHANGES = 4

#: The role of ComfyUI's own attention function.
HOSTS_ROLE = "attention"

#: The operator that gives a tensor; others give tuples.
ONE_RESULT = "foreign_1"


class Promises:
    """Of one kind of block. ``changed`` are those that were other ones before; they are part of a variant's key.
    ``seen`` are the combinations of roles in which foreign code acted in a block that ran to its end."""

    def __init__(self) -> None:
        self.changed: dict[tuple[str, str], str] = {}
        self.seen: set[tuple[str, ...]] = set()
        self._forms: dict[tuple[str, str], str] = {}
        self._seen: dict[tuple[str, str], list[Seen]] = {}
        self._changes: dict[tuple[str, str], int] = {}
        self._unfit: dict[tuple[str, str], str] = {}
        self._standins: dict[tuple[str, Hashable], Callable] = {}

    def note(self, role: str, text: str | None, call: Seen, function: Callable) -> None:
        """Notes what a call of a function gave. ``role`` says what it takes the place of, ``text`` in which form it was
        called."""
        if text is None or is_strange(call.structure):
            self.refuse(role, function, "it is called with, or gives, something that no graph can hold.")
            return
        if call.writes_outside:
            self.refuse(role, function, "it writes into what the block was given.")
            return
        site = (role, text)
        known = self._forms.get(site)
        if known is not None and holds(known, call):
            return
        calls = [*self._seen.get(site, []), call][-MOST_SEEN:]
        form = fitting(calls)
        if form is None:
            if all(one.kind == call.kind for one in calls):
                self.refuse(role, function, "it changes the number of tokens or the batch.")
                return
            calls = [call]
            form = fitting(calls)
        assert form is not None, "one call alone can be told by its numbers"
        self._seen[site], self._forms[site] = calls, form
        if known is not None:
            self.changed[site] = form
            self._changes[site] = self._changes.get(site, 0) + 1
            if self._changes[site] > MOST_CHANGES:
                self.refuse(role, function, "its results have another form from call to call.")

    def refuse(self, role: str, function: Callable, reason: str) -> None:
        """From now on blocks run uncompiled where this function, or another one from the same place, acts in a role."""
        self._unfit[role, origin(function)] = reason

    def unfit(self, functions: dict[str, Callable]) -> tuple[str, str] | None:
        """The first role of which the function cannot be an operator, and why; None when all can."""
        if not self._unfit:
            return None
        names = ((role, origin(function)) for role, function in functions.items())
        return next(((role, self._unfit[role, name]) for role, name in names if (role, name) in self._unfit), None)

    def promise(self, role: str, form: Form) -> tuple[str, str, str, Any]:
        """For a call that Dynamo traces: the operator, the call's text, what is promised of its result, and that
        result's structure.

        Raises:
            LookupError: when no such call was seen.
        """
        text = CALL_FORMS.text(form)
        promise = None if text is None else self._forms.get((role, text))
        if text is None or promise is None:
            block_call.current().met_unknown = True
            raise LookupError(f"{role} is called in a form that was not seen: {text}")
        structure, tensors = parsed(promise)
        return registered(len(tensors)), text, promise, structure

    def standin(self, role: str) -> Callable:
        """The function that takes the place of foreign code in a graph; another one when a promise has changed."""
        key = (role, tuple(self.changed.items()))
        if key not in self._standins:
            self._standins[key] = _standin(self, role)
        return self._standins[key]


def holds(form: str, call: Seen) -> bool:
    """Whether a result has the form that was promised; how it lies in memory does not matter."""
    structure, _ = parsed(form)
    if structure != call.structure:
        return False
    tensors = [torch.empty(sizes, device="meta") for sizes in call.inputs]
    try:
        expected = [(tuple(sizes), dtype) for sizes, _, dtype in promised(form, tensors)]
    except IndexError:
        return False
    return expected == [(leaf.sizes, getattr(torch, leaf.dtype)) for leaf in call.leaves]


def _standin(promises: Promises, role: str) -> Callable:
    @torch._dynamo.assume_constant_result
    def promise(form: Form) -> tuple[str, str, str, Any]:
        return promises.promise(role, form)

    def standin(*args: Any, **kwargs: Any) -> Any:
        form, tensors, numbers = split_traced(args, kwargs)
        operator, text, promised_form, structure = promise(form)
        results = getattr(torch.ops.onediff_comfy, operator)(ORDER, tensors, numbers, role, text, promised_form)
        return put_together(structure, [results] if operator == ONE_RESULT else results)

    standin.__dict__[HOSTS_OWN] = role == HOSTS_ROLE
    return standin


_promises: dict[Hashable, Promises] = {}


def promises_of(kind: Hashable) -> Promises:
    """The promises of a kind of block, made at the first call."""
    return _promises.setdefault(kind, Promises())
