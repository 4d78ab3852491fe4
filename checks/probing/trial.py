"""Calls a processor on small real tensors: what its numbers say."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch

from ...patching.inside import tensors_in
from ...processors.random_numbers import defaults_kept
from ..mounted import Mounted
from .bench import Inputs, Raised, dtypes_of, raised
from .cases import MASKS, Case, Mask
from .probe import probe
from .real import Bench, Unavailable, bench, small_cases

#: Relative differences: below the first, two ways of computing the same; above the second, something else.
SAME, OTHER = 1e-3, 3e-2

Training = Literal["equal", "differs", "random"]


@dataclass
class Trial:
    """What a few calls gave. ``errors`` are those that come with numbers only, with the cases in which they came.
    ``sets_dtype``: it changes the default dtype. ``wrote`` are inputs that were changed, ``training`` how train()
    compares with eval(); ``ignored``, ``inverted`` and ``misread`` are masks that did nothing, the reverse, or
    something else than in PyTorch's attention."""

    errors: dict[Raised, list[Case]] = field(default_factory=dict)
    finite: bool = True
    repeatable: bool = True
    training: Training = "equal"
    sets_dtype: bool = False
    wrote: list[str] = field(default_factory=list)
    ignored: list[Mask] = field(default_factory=list)
    inverted: list[Mask] = field(default_factory=list)
    misread: list[Mask] = field(default_factory=list)


def trial(mounted: Mounted) -> Trial:
    """Evidence: the calls, in each dtype and with each mask that it takes. Nothing is found out where the processor
    cannot run. Of sites of a kind that differ in widths only the first is tried, where it has no weights of its own:
    what depends on shapes alone is the probe's."""
    alike = ("numbers", mounted.site.kind, mounted.site.has_projections)
    if alike in mounted.captured and next(tensors_in(mounted.module), None) is None:
        return mounted.captured[alike]
    found = mounted.captured[alike] = _tried(mounted)
    return found


def _tried(mounted: Mounted) -> Trial:
    found, judged = Trial(), False
    for dtype in sorted(dtypes_of(mounted), key=lambda d: (d != torch.float32, d != mounted.dtype)):
        small = working_case(mounted, dtype)
        if small is None:
            continue
        try:
            with bench(mounted, small) as real:
                if judged:
                    _run_through(real, found)
                else:
                    judged = _judge(real, found)
        except Unavailable:
            break
    return found


def working_case(mounted: Mounted, dtype: torch.dtype) -> Case | None:
    """A small case without a mask that the processor takes, as far as can be told without numbers."""
    probed = mounted.evidence(probe)
    return next((case for case in small_cases(mounted, dtype) if not probed.fails(case)), None)


def _run(real: Bench, found: Trial, inputs: Inputs, mask: Mask | None, processor: Any = None) -> Any:
    """The result of a call, None where it raised, which is noted."""
    before = torch.get_default_dtype()
    try:
        with defaults_kept():
            result = real.run(inputs, processor)
            found.sets_dtype |= torch.get_default_dtype() is not before
        return result
    except real.mounted.attendance.stops:
        raise
    except BaseException as error:  # SystemExit too: whatever forward raises is its author's to read
        said = raised(error, real.mounted)
        same = next((known for known in found.errors if known.where == said.where), said)
        found.errors.setdefault(same, []).append(replace(real.case, mask=mask))
        return None


def _run_through(real: Bench, found: Trial) -> None:
    """Calls it once without and with a mask in a dtype that PyTorch's attention has here: shapes alone do not show
    which operations refuse mixed dtypes."""
    for mask in (None, MASKS[-1]):
        inputs = real.inputs(mask)
        try:
            real.original(inputs)
        except RuntimeError:
            return
        if _takes(real, mask):
            _run(real, found, inputs, mask)


def _takes(real: Bench, mask: Mask | None) -> bool:
    return mask is None or not real.mounted.evidence(probe).fails(replace(real.case, mask=mask))


def _judge(real: Bench, found: Trial) -> bool:
    """Whether it ran: then there is something to judge by."""
    inputs = real.inputs()
    kept = {name: None if x is None else x.clone() for name, x in inputs.items()}
    processor = real.processor().eval()
    first = _run(real, found, inputs, None, processor)
    if first is None and found.errors:
        return False
    found.wrote = [name for name, x in inputs.items() if x is not None and not _equal(x, kept[name])]
    ordinary = isinstance(first, torch.Tensor) and first.layout is torch.strided
    if found.wrote or not ordinary:
        return True
    original = real.original(inputs)
    if first.shape != original.shape:
        return True
    found.finite = bool(first.isfinite().all())
    if not found.finite:
        return True
    first = first.clone()
    found.repeatable = difference(real.run(inputs, processor), first) < SAME
    if not found.repeatable:
        return True
    found.training = _training(real, inputs, first)
    _judge_masks(real, inputs, original, first, found)
    return True


def _training(real: Bench, inputs: Inputs, in_eval: torch.Tensor) -> Training:
    processor = real.processor().train()
    once = real.run(inputs, processor)
    if difference(once, in_eval) < SAME:
        return "equal"
    return "differs" if difference(real.run(inputs, processor), once) < SAME else "random"


def _judge_masks(real: Bench, inputs: Inputs, original: torch.Tensor, unmasked: torch.Tensor, found: Trial) -> None:
    """Each form of mask against PyTorch's attention, for processors that agree with it where there is no mask. Of the
    others is known only whether a mask does anything. ``original`` and ``unmasked`` are the results without one."""
    plain = difference(unmasked, original) < SAME
    looks_at_keys = difference(_of_first_token(real.run(_other_keys(inputs))), _of_first_token(unmasked)) > OTHER
    name = list(inputs)[-1]
    for mask in MASKS:
        given = real.inputs(mask)[name]
        assert given is not None
        masked: dict[str, torch.Tensor | None] = {**inputs, name: given}
        right = real.original(masked)
        if difference(right, original) < OTHER or not _takes(real, mask):
            continue
        handed = given.clone()
        result = _run(real, found, {**masked, name: handed}, mask)
        if result is None:
            continue
        if not _equal(handed, given):
            found.wrote.append(name)
        elif looks_at_keys and difference(result, unmasked) < 1e-6:
            found.ignored.append(mask)
        elif plain and difference(result, right) > OTHER:
            reverse = real.original({**masked, name: ~given if mask.boolean else -given})
            (found.inverted if difference(result, reverse) < SAME else found.misread).append(mask)


def _other_keys(inputs: Inputs) -> Inputs:
    """The same call with other numbers in what keys and values come from; the first token of what queries come from,
    too, stays as it is."""
    changed = {}
    for name, x in inputs.items():
        changed[name] = x
        if x is not None and name in ("k", "v", "encoder_hidden_states"):
            changed[name] = x.flip(-1).clone()
        elif x is not None and name == "hidden_states" and inputs["encoder_hidden_states"] is None:
            changed[name] = torch.cat([x[:, :1], x[:, 1:].flip(-1)], dim=1)
    return changed


def _of_first_token(result: Any) -> Any:
    """(batch, tokens, channels) or (batch, heads, tokens, channels), the first token alone."""
    return result[..., :1, :] if isinstance(result, torch.Tensor) and result.ndim > 2 else result


def difference(a: Any, b: torch.Tensor) -> float:
    """‖a - b‖ / ‖b‖; infinite where a is no tensor of that shape."""
    if not isinstance(a, torch.Tensor) or a.shape != b.shape:
        return float("inf")
    gap = float((a.float() - b.float()).norm() / b.float().norm().clamp_min(1e-12))
    return gap if gap == gap else float("inf")


def _equal(a: torch.Tensor | None, b: torch.Tensor | None) -> bool:
    return a is None or b is None or torch.equal(a, b)
