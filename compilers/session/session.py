"""One compiled MODEL: how its samplings and steps run."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from ...patching.explicit_forward import forwards_given
from ...patching.foreign import foreign_patches
from ...patching.forwards import swapped_forwards
from ...patching.instead import StepCount, calls_expected
from ...patching.tracing.private import PRIVATE_TRACING
from ...patching.user_errors import ordinary
from ...patching.wrappers import APPLY_MODEL, KEY, ModelCall, ModelWrapper
from ...processors.attention_patch import AttentionPatch
from ...processors.finite import sampled_finite
from ..measuring.model_memory import Variant
from .failures import taken_over
from .prepared_model import shape_of
from .preparing import Preparing
from .sampling import Sampling
from .step import Step

log = logging.getLogger(__name__)


class Session(Preparing, ModelWrapper):
    """The state behind one OneDiff Compile node, as a wrapper of ``apply_model``.

    The first step runs uncompiled, ``watching`` what the blocks read. Then steps run compiled; the first run of each
    block is compared with an uncompiled one. Until it is clear which way is faster, compiled and uncompiled steps take
    turns.
    """

    order, times_steps = 2, True

    # What ComfyUI calls.

    def sampling(self, executor: Callable, *args: Any, **kwargs: Any) -> Any:
        """Wrapper of one whole sampling (``outer_sample``): what it measured is published at its end."""
        during = self.during = Sampling(now=True, broke_off=True, steps=StepCount(args, kwargs))
        self.measuring.begin_sampling()
        self.step, self.replaced_by = Step(None, Variant()), None
        self.failures.begin_sampling()
        self.compiler.begin_sampling()
        try:
            result = self.sample_again(partial(executor, *args, **kwargs), executor(*args, **kwargs))
            during.broke_off, during.gave_numbers = False, sampled_finite(result)
            self.measuring.end_sampling()
            if self.failures.given_up is None and calls_expected(args, kwargs):
                during.note_use(executor, self.blocks)
                during.unused = self.took_part.with_earlier(self.host.prompt(), during.steps.steps, during.unused)
            self.record.sampled(self.host.sampler())
            return result
        finally:
            during.now = False
            self.compiler.end_sampling(self.memory.graphs, during.broke_off)
            if self.record["state"] != "failed":
                self.publish()
            log.info("OneDiff Compile (node %s): %s", self.record["node"], self.record["summary"])

    def predicting(self, executor: Callable, *args: Any, **kwargs: Any) -> Any:
        """Wrapper of what a sampler asks for in a step (``predict_noise``)."""
        self.during.steps.asked()
        return executor(*args, **kwargs)

    def around(self, call: ModelCall) -> Any:
        if not self.during.now:  # a node with a loop of its own
            self.record.sampled(self.host.sampler())
        inputs = (call.x, call.c_concat, call.c_crossattn, call.more)
        if self.measuring.begin_step(shape_of(inputs, call.control, call.options), "×".join(map(str, call.x.shape))):
            self._begin(call.executor.class_obj, call.options)
        is_slow = self.measuring.is_slow and not self.measuring.looks
        before = self.step
        if is_slow or self.failures.concerning(self.shape) is not None:
            result = call()
        else:
            with forwards_given(self.model.called_directly if self.model else []):
                result = self._run(call)
        self.during.steps.called(self.step is before or self.step.ran_block)
        return result

    def _begin(self, base_model: Any, options: dict[str, Any]) -> None:
        """Looks once a sampling at the model, and at what other nodes have put on it."""
        self._forget_cleared()
        model, dtype = base_model.diffusion_model, base_model.get_dtype_inference()
        wrappers = (options.get("wrappers") or {}).get(APPLY_MODEL, {})
        self.foreign = foreign_patches(options)
        patches = [wrapper for wrapper in wrappers.get(KEY, ()) if isinstance(wrapper, AttentionPatch)]
        self.patches = patches
        another = taken_over(model, wrappers, options)
        if another is not None:
            self.give_up(another)
        if self.failures.given_up is None:
            self.prepare(model, patches, dtype)
        self.memory.forget_cleared()
        for runner in self._runners:
            runner.begin_sampling()
        self._stop_if_unfit()

    def _run(self, call: ModelCall) -> Any:
        measuring = self.measuring
        functions = tuple(runner.look() for runner in self._runners)
        variant = self.step.variant
        if measuring.begins or not measuring.is_slow:
            variant = self.memory.variant((self.settings, functions))
            measuring.times = variant.times
        self._give_gains(functions)
        is_slow = self._found_slow()
        if is_slow and not measuring.looks:
            return call()
        watching = not is_slow and (variant.times.warm_up_next(self.shape) or self.patches_decide)
        compared = is_slow or self._compares_next
        step = self.step = Step(self.shape, variant, watching, compared, bypassing=compared)
        step.number, step.size = measuring.number, self._sizes.of(measuring.size, self.shape)
        step.goes_on = self.settings.keep_faster
        if not (watching or compared) and measuring.settled:
            step.again = self._turns.next(self.called)
        self.during.tried = True
        if watching:
            self.record.update(live=True, state="measuring", progress=None)
        failure: Exception | None = None
        kept = [] if watching or compared else [held for patch in self.patches if (held := patch.instances.kept())]
        try:
            with PRIVATE_TRACING, swapped_forwards([runner.bind(step) for runner in self._runners]):
                result, milliseconds = measuring.time(call)
        except Exception as error:
            if step.running is None or isinstance(error, self.host.cancel.stops):
                raise
            # The traceback would keep the failed step's memory.
            failure = ordinary(BaseException.with_traceback(error, None))
        finally:
            for runner in self._runners:
                runner.unbind()
        if failure is not None:
            for held in kept:  # what ran is called again
                held.put_back()
            return self.rerun(step, call, failure)
        if self.is_nonsense(step, call, result):
            for held in kept:
                held.put_back()
            return self.recompute(call)
        if step.ran_block:  # else a caching node skipped the model
            measuring.ran(tuple(block.calls for block in self.blocks))
            self._after(step, self.without_trials(milliseconds))
        return result
