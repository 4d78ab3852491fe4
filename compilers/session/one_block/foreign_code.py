"""Foreign code in one block while a session samples: what acts there, and what it takes to run it inside a graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from ....patching.calls import Inputs, with_options
from ....patching.foreign import OVERRIDE, hosts_own, origin
from ....processors.overriding import has_processor, supersedes
from ...blocks.operators.acting import (
    Acting,
    acting_on,
    is_superseded,
    uncompiled_options,
    whose_words,
    with_standins,
)
from ...blocks.operators.block_call import BlockCall
from ...blocks.operators.call_form import MARK
from ...blocks.operators.promises import promises_of
from ...blocks.operators.writers import WRITERS, same
from ...blocks.parity import Parity, compare
from ...blocks.tensors import tensors_of
from ...blocks.transformer_options import Reads, Unfit, acting, watched
from ...measuring.block import Block, Operator

#: Times that a compiled block may come upon a call that was not seen before it counts as a failure.
MOST_UNKNOWN = 4


class ForeignCode:
    """Of one block. ``position`` is that of the options among its arguments."""

    def __init__(self, block: Block, device: torch.device):
        self.position: int | None = None
        self._block = block
        self._promises = promises_of(block.signature)
        self._times_work = device.type == "cpu"
        self._writes_inputs: set[int] | None = None
        self._unknown = 0

    def superseding(self, forward: Callable, options: dict[str, Any]) -> str:
        """Whether processors on the block's sites take the place of an attention override that was there before them:
        on "all", "some" or "none"."""
        override, sites, own = options.get(OVERRIDE), self._block.sites, self._block.module
        if override is None or not sites:
            return "none"
        taken = [supersedes(site, forward if site is own else None, override) for site in sites]
        return "all" if all(taken) else "some" if any(taken) else "none"

    def with_hosts(self, attention: Callable | None, forward: Callable, options: dict[str, Any]) -> dict[str, Any]:
        """The options of a call, with ComfyUI's ``attention``, which no graph can hold, as an override. None is needed
        where another one is there, and where processors compute all attention of the block."""
        own, sites = self._block.module, self._block.sites
        if attention is None or options.get(OVERRIDE) is not None:
            return options
        if sites and all(has_processor(site, forward if site is own else None) for site in sites):
            return options
        return {**options, OVERRIDE: hosts_own(attention)}

    def acting(self, forward: Callable, options: dict[str, Any], reads: Reads, can_hold: bool) -> Acting | Unfit:
        """What acts on the block now, or why it must run uncompiled. ``can_hold``: a graph can hold operators."""
        taken = self.superseding(forward, options)
        if taken == "all":
            options = {key: value for key, value in options.items() if key != OVERRIDE}
        if not can_hold or taken == "some":
            return acting(options, reads) or Acting({})
        found = acting_on(options, reads)
        if isinstance(found, Unfit):
            return found
        unfit = self._promises.unfit(found.functions)
        if unfit is None:
            return found
        role, reason = unfit
        whose = origin(found.functions[role])
        return Unfit(f"{whose_words(role)} ({whose}) cannot be inside a graph: {reason}")

    def seen(self, found: Acting) -> bool:
        """Whether blocks of this kind were seen under what acts now."""
        return not found.functions or found.roles in self._promises.seen

    def begin(self, inputs: Inputs, options: dict[str, Any], found: Acting) -> BlockCall:
        """A call of the block that is to run compiled."""
        return BlockCall(options, found.functions, self._promises.note, _without_options(inputs, options))

    def anew(self, call: BlockCall) -> BlockCall:
        """The same call once more, in which foreign code runs again."""
        return BlockCall(call.options, call.functions, call.learn, call.inputs)

    def with_options_of(self, call: BlockCall, inputs: Inputs) -> Inputs:
        """Inputs with the options that the block was called with."""
        return with_options(inputs, self.position, call.options)

    def operators(self, found: Acting) -> tuple:
        """Their part of the variant's key."""
        return (found.roles, tuple(self._promises.changed.items())) if found.functions else ()

    def standing_in(self, inputs: Inputs, options: dict[str, Any], entering: dict[str, Any], found: Acting) -> Inputs:
        """The inputs of the compiled block."""
        inside = with_standins(options, entering, found, self._promises) if found.functions else entering
        return with_options(inputs, self.position, inside)

    def watched(
        self,
        run: Callable[[Inputs], Any],
        inputs: Inputs,
        options: dict[str, Any],
        forward: Callable,
        can_hold: bool,
        known: Reads | None,
    ) -> tuple[Any, Reads, Acting | Unfit]:
        """Runs the block uncompiled: its result, what its own code reads, as far as is ``known`` and was seen now, and
        what acted on it."""
        seen = Reads()
        seen.add(known or Reads())
        if not can_hold:
            result = run(with_options(inputs, self.position, watched(options, seen)))
            return result, seen, self.acting(forward, options, seen, can_hold)
        call = BlockCall(options, {}, self._promises.note, _without_options(inputs, options))
        keeps = self.superseding(forward, options) != "none"
        result = run(with_options(inputs, self.position, uncompiled_options(call, keeps, seen)))
        seen.keys.discard(MARK)
        found = self.acting(forward, options, seen, can_hold)
        if isinstance(found, Acting):
            self._promises.seen.add(found.roles)
        return result, seen, found

    def first(self, run: Callable[[Inputs], Any], inputs: Inputs, call: BlockCall, found: Acting) -> Any:
        """The uncompiled run of a call that is compared; what foreign code gives is kept."""
        call.compared = True
        result = run(self._through(call, inputs))
        self._promises.seen.add(found.roles)
        return result

    def again(self, run: Callable[[Inputs], Any], inputs: Inputs, call: BlockCall | None) -> Any:
        """Goes on uncompiled with a call that could not be finished compiled; None where no foreign code acts."""
        if call is None:
            return run(inputs)
        return run(self._through(call.again(), inputs))

    def _through(self, call: BlockCall, inputs: Inputs) -> Inputs:
        """Inputs with which the block runs uncompiled, and foreign code that acts on it goes through the call."""
        superseded = is_superseded(call.options.get(OVERRIDE), call.functions)
        return with_options(inputs, self.position, uncompiled_options(call, superseded))

    def parity(self, call: BlockCall, second: BlockCall, clones: Inputs, inputs: Inputs) -> list[Parity]:
        """How far the second run, on clones, went the way of the first: arguments of foreign code, and what the block
        wrote into its inputs."""
        found = [*second.parities, compare(tensors_of(clones), tensors_of(inputs))]
        as_often = second.calls == len(call.given)
        return found if as_often else [*found, compare(None, torch.zeros(()))]

    def note_written(self, before: Inputs, after: Inputs) -> bool:
        """Notes which inputs the block writes into, and says whether it does."""
        were, are = tensors_of(before), tensors_of(after)
        try:
            written = {number for number, (a, b) in enumerate(zip(were, are, strict=True)) if not same(a, b)}
        except Exception:  # there may be no memory for it; or lists among them have become longer
            written = set(range(len(were)))
        self._writes_inputs = written | (self._writes_inputs or set())
        return bool(written)

    def kept_inputs(self, inputs: Inputs) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Inputs that the block writes into, each with a copy."""
        writes = self._writes_inputs
        found = enumerate(tensors_of(inputs))
        return [(one, one.clone()) for number, one in found if writes is None or number in writes]

    def writers(self, found: Acting) -> Sequence[int]:
        """Foreign functions that write into what they are given: what a block does with one has to be compared."""
        if not found.functions:
            return ()
        numbers = (WRITERS.number(function) for function in found.functions.values())
        return tuple(number for number in numbers if number)

    def refuse_writers(self, found: Acting) -> bool:
        """After a result that was not right: functions that write are to blame, if there are any."""
        blamed = {role: function for role, function in found.functions.items() if WRITERS.writes(function)}
        for role, function in blamed.items():
            self._promises.refuse(role, function, "it writes into what the block uses later.")
        return bool(blamed)

    def learned(self, call: BlockCall) -> bool:
        """Whether the block came upon something new in this call, which it is compiled for next time. Too often is a
        failure."""
        self._unknown += call.met_unknown
        return call.met_unknown and self._unknown <= MOST_UNKNOWN

    def note(self, call: BlockCall, found: Acting) -> None:
        """Notes what ran inside the compiled block."""
        self._block.operators = {
            role: Operator(what, where, call.seconds.get(role, 0.0) * 1000 if self._times_work else None)
            for role, what, where in found.described()
            if role in call.seconds
        }


def _without_options(inputs: Inputs, options: dict[str, Any]) -> list[Any]:
    """What a block is given besides the options."""
    args, kwargs = inputs
    return [one for one in (*args, *kwargs.values()) if one is not options]
