"""One part of a workflow that is called for itself, such as a VAE: how its calls run.

A picture may need a single call, so that no later one could be compared with it. The first call of each size runs
uncompiled, and that is what the caller gets. Then the same call is repeated, with its results thrown away: once for
blocks to be compiled, compared and timed, once compiled as a whole, and as often as a few seconds allow both ways by
turns. Whatever fails meanwhile, the caller has its result.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from ....patching.calls import Inputs
from ....patching.explicit_forward import forwards_given
from ....patching.forwards import swapped_forwards
from ....patching.user_errors import ordinary
from ....processors import finite
from ....processors.random_numbers import numbers_kept
from ...backends.errors_in_words import is_out_of_memory
from ...blocks.parity import clone_inputs, compare
from ...blocks.tensors import tensors_of
from ...measuring.model_memory import Variant
from ..failures import ModelUnfit
from ..faults import NOT_FINITE
from ..one_block.block_runner import BlockRunner
from ..preparing import Preparing
from ..sampling import Sampling
from ..step import Step
from .arguments import shape_of, size_of
from .bound import bound
from .lists import Lists
from .whole import DIFFERS, is_right

log = logging.getLogger(__name__)

#: Repetitions at most.
MOST_PASSES = 40

#: So many times the seconds that are meant for it may the first pair of runs take, for there to be a second.
LONG = 4.0

#: Why a call runs uncompiled in which there is nothing to compile.
NOT_REACHED = "this part of it has no block that repeats or computes attention."

#: Why a part is handed on as it is whose model is something else.
NO_MODULE = "its model is no PyTorch module."

_COMPILED_ALREADY = "another node compiles it: remove one of the two."


class CallSession(Preparing):
    """The state behind one node that compiles such a part. ``using`` is around what the host does as one, such as
    decoding a picture in tiles; ``call`` is one call of the part itself. Once it was compiled, a call is repeated both
    ways by turns for so many ``seconds``. ``decides``: these repetitions choose the way, and not later calls too.
    """

    seconds = 5.0
    unit, decides = "run", True

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.module: nn.Module | None = None  # the one in use
        self._called = False  # in this use
        self._unreached: set[Hashable] = set()  # shapes of calls in which no block runs
        self._lists: WeakKeyDictionary[BlockRunner, Lists] = WeakKeyDictionary()

    @contextmanager
    def using(self, module: nn.Module, dtype: Any) -> Iterator[None]:
        """Around one use of a module: what it measured is published at the end."""
        if self.during.now:
            yield
            return
        try:
            self.begin(module, dtype)
            yield
        except BaseException:
            self.end(broke_off=True)
            raise
        self.end()

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Around all that looks at a part: one of another pack may raise then, and is not compiled."""
        try:
            yield
        except self._meant:
            raise
        except Exception as error:
            self.give_up(f"it could not be looked at: {self.compiler.explain(error).reason}")

    def begin(self, module: nn.Module, dtype: Any) -> None:
        """Begins a use of a module, which computes in a dtype."""
        self.during = Sampling(now=True, broke_off=True)
        self.measuring.begin_sampling()
        self.step, self.replaced_by, self._called = Step(None, Variant()), None, False
        self.failures.begin_sampling()
        self.compiler.begin_sampling()
        self._begin(module, dtype)

    def end(self, broke_off: bool = False) -> None:
        """Ends a use, and publishes what it measured."""
        if not broke_off:
            self.measuring.end_sampling()
        self.during.now, self.during.broke_off = False, broke_off
        if self._called:
            self.record.sampled(self.host.sampler())
        self.compiler.end_sampling(self.memory.graphs)
        if self.record["state"] != "failed":
            self.publish()
        log.info("%s (node %s): %s", self.title, self.record["node"], self.record["summary"])

    def call(self, name: str, run: Callable, inputs: Inputs) -> Any:
        """Calls a method of the part. ``name`` is the method's; ``run`` is the method.

        Raises:
            ModelUnfit: when something cannot be compiled and the user asked to stop then.
        """
        self._called = True
        shape, size = shape_of(name, inputs), size_of(inputs)
        self.measuring.begin_step(shape, size)
        if self.failures.concerning(shape) is not None or not self.blocks or shape in self._unreached:
            return run(*inputs[0], **inputs[1])
        with forwards_given(self.model.called_directly if self.model else []):
            if shape in self._tried:
                return self._safely(run, inputs, lambda: self._known(run, inputs))
            result = self._safely(run, inputs, lambda: self._pass(run, inputs, watching=True))
            if self.failures.given_up is None:
                self._try_out(run, inputs, result)
        return result

    def _safely(self, run: Callable, inputs: Inputs, attempt: Callable[[], Any]) -> Any:
        """What an attempt gives; where it fails, what the part itself gives, or raises. Running out of memory is left
        to the host, which has a way of its own."""
        try:
            return attempt()
        except self._meant:
            raise
        except Exception as error:
            if is_out_of_memory(error):
                raise
            failure = ordinary(BaseException.with_traceback(error, None))
        result = run(*inputs[0], **inputs[1])
        self.give_up(f"it could not be watched: {self.compiler.explain(failure).reason}")
        return result

    @property
    def uncompiled_because(self) -> str | None:
        reason = super().uncompiled_because
        if reason is None:
            return NOT_REACHED if self.shape in self._unreached else None
        return reason

    @property
    def _meant(self) -> tuple[type[BaseException], ...]:
        """What ends the run on purpose."""
        return (ModelUnfit, *self.host.cancel.stops)

    def _begin(self, module: nn.Module, dtype: Any) -> None:
        self._forget_cleared()
        self.module = module
        with self.looking():
            if any(hasattr(part, "_orig_mod") for part in (module, *module.children())):
                self.give_up(_COMPILED_ALREADY)
            elif self.failures.given_up == _COMPILED_ALREADY:
                self.failures.given_up = None
        if self.failures.given_up is None:
            self._prepare_safely(module, dtype)
        self.memory.forget_cleared()
        for runner in self._runners:
            runner.begin_sampling()
        self._stop_if_unfit()

    def _prepare_safely(self, module: nn.Module, dtype: Any) -> None:
        before = self._runners
        with self.looking():
            self.prepare(module, (), dtype)
        if self._runners is not before:
            self._forget_tried()

    def _forget_tried(self) -> None:
        super()._forget_tried()
        self._unreached.clear()

    def _known(self, run: Callable, inputs: Inputs) -> Any:
        """A call of a size that was tried out."""
        if self.measuring.is_slow and not self.measuring.looks:
            return run(*inputs[0], **inputs[1])
        result = self._pass(run, inputs)
        if not self.step.ran_compiled or finite.all_finite(tensors_of(result)):
            return result
        again = run(*inputs[0], **inputs[1])
        self.during.is_not_finite = not finite.all_finite(tensors_of(again))
        self.during.gave_numbers = not self.during.is_not_finite
        if not self.during.is_not_finite:
            self.give_up(NOT_FINITE)
        return again

    def _pass(self, run: Callable, inputs: Inputs, watching: bool = False, spare: bool = False) -> Any:
        """One run of a call. Where compiled code fails in it that was right before, it runs again uncompiled; a
        ``spare`` one, whose result nobody needs, gives None then."""
        measuring = self.measuring
        functions = tuple(runner.look() for runner in self._runners)
        variant = self.memory.variant((self.settings, functions))
        measuring.times = variant.times
        self._give_gains(functions)
        compared = not watching and (self._found_slow() or self._compares_next)
        step = self.step = Step(self.shape, variant, watching, compared, bypassing=compared)
        step.number, step.size = measuring.number, self._sizes.of(measuring.size, self.shape)
        if not (watching or compared or spare) and measuring.settled:
            step.again = self._turns.next([block for block in self.called if not block.takes_lists])
        self.during.tried = True
        failure: Exception | None = None
        for block in self.blocks:
            block.ran = False
        try:
            with swapped_forwards(
                [bound(runner, step, self._lists.setdefault(runner, Lists())) for runner in self._runners]
            ):
                result, milliseconds = measuring.time(partial(run, *inputs[0], **inputs[1]))
        except Exception as error:
            if step.running is None or isinstance(error, self.host.cancel.stops):
                raise
            # The traceback would keep the failed call's memory, which what runs next may need.
            failure = ordinary(BaseException.with_traceback(error, None))
        finally:
            for runner in self._runners:
                runner.unbind()
        if failure is not None:
            assert step.running is not None
            self.failed(step.running[0], step.running[1], failure)
            self.publish()
            return None if spare else run(*inputs[0], **inputs[1])
        if step.ran_block:
            measuring.ran(tuple(block.calls for block in self.blocks))
            self._after(step, milliseconds)
        return result

    def _try_out(self, run: Callable, inputs: Inputs, result: Any) -> None:
        """Finds out which way calls like this one are to run. Nothing that goes wrong reaches the caller, who has the
        result, but Cancel and what the user asked to stop for."""
        if not self.step.ran_block:
            self._unreached.add(self.shape)
            return
        self.record.update(state="measuring", progress=None)
        shape = self.shape
        try:
            with numbers_kept(self.device):
                self._repeat(run, inputs, result)
        except self._meant:
            raise
        except Exception as error:
            failure = ordinary(BaseException.with_traceback(error, None))
            if is_out_of_memory(failure):
                self.failures.not_compared.add(shape)  # compiled code that ran out of it ends in the pass
            else:
                self.give_up(f"it could not be repeated: {self.compiler.explain(failure).reason}")
        if not self.compiler.waiting or not self.compiler.budget:
            self._tried.add(shape)

    def _is_enough(self, seconds: float) -> bool:
        """Whether enough runs were timed in so many seconds. Two pairs at least; one where runs take very long."""
        pairs = self.measuring.times.pairs(self.shape)
        return pairs > 0 and seconds > (self.seconds if pairs > 1 else LONG * self.seconds)

    def _repeat(self, run: Callable, inputs: Inputs, result: Any) -> None:
        shape, size = self.shape, self.measuring.size
        since: float | None = None
        for _ in range(MOST_PASSES):
            self.host.check_interrupt()
            if since is not None and (self.measuring.settled or self._is_enough(time.monotonic() - since)):
                if self.decides:
                    self.measuring.decide()
                    self._found_slow()
                return
            if self.uncompiled_because is not None:
                return
            own = clone_inputs(inputs)
            self.measuring.begin_step(shape, size)
            again = self._pass(run, own, spare=True)
            if not (self.step.dirty or self.step.compared or self.step.ran_compiled):
                return
            if self.step.was_compiled and since is None:
                parity = compare((again, tensors_of(own)), (result, tensors_of(inputs)))
                if not is_right(parity):
                    self.give_up(DIFFERS)
                    return
                since = time.monotonic()
            if self.compiler.waiting and since is not None:
                return
