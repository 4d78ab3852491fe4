"""Rules on what a processor does when it is called, without and with numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ...processors.elsewhere import CallKind
from ..mounted import Mounted
from ..rule import Hit, Layer, Rule, Subject, rule
from ..source import function_location
from .bench import Raised, kind_of, odd
from .cases import Case, share
from .mask_rules import told_of_masks
from .probe import Form, Outcome, probe
from .trial import trial
from .words import SERVED, elsewhere, in_an_ordinary_run, named, when


class Probe(Rule):
    """A rule on a processor at its site."""

    layer: ClassVar[Layer] = "probe"
    subject: ClassVar[type[Subject]] = Mounted

    def where(self, subject: Mounted) -> str | None:
        return function_location(type(subject.module).forward)


@dataclass(frozen=True)
class Sorted:
    """Failing cases: those that an ordinary run brings, and kinds of calls in which the others fail."""

    ordinary: list[Case]
    kinds: list[CallKind]


def sorted_out(subject: Mounted, failing: Sequence[Case]) -> Sorted:
    """Which failing cases an ordinary run meets; each other is put down to what it is out of the ordinary in."""
    probed = subject.evidence(probe)
    reduced = list(dict.fromkeys(probed.reduced(case) for case in failing))
    usual = [case for case in reduced if not odd(subject, case)]
    kinds = [kind_of(subject, case) for case in reduced if odd(subject, case)]
    return Sorted(usual, [kind for kind in dict.fromkeys(kinds) if not _contained(kind, kinds)])


def _contained(kind: CallKind, kinds: Sequence[CallKind]) -> bool:
    """Whether calls of a kind are also of another, wider one."""
    return any(other != kind and _is_wider(other, kind) for other in kinds)


def _is_wider(one: CallKind, other: CallKind) -> bool:
    return all(value is None or value == getattr(other, name) for name, value in vars(one).items())


class Fails(Probe):
    """An exception; ``errors(subject)`` has the cases in which each came."""

    what = "{what}"
    why = "{why}"
    fix = "{fix}"

    def errors(self, subject: Mounted) -> Mapping[Raised, Sequence[Case]]:
        raise NotImplementedError

    def hits(self, subject: Mounted) -> Iterator[Hit]:
        tried = [case for case in subject.evidence(probe).tried if not odd(subject, case)]
        for error, failing in self.errors(subject).items():
            found = sorted_out(subject, failing)
            if found.ordinary:
                usual = [case for case in failing if not odd(subject, case)] or found.ordinary
                known = tried if set(usual) <= set(tried) else usual  # calls with numbers are few, all of one size
                yield Hit(in_an_ordinary_run(error, usual, known), error.where)
                continue
            told = told_of_masks(subject)
            kinds = [kind for kind in found.kinds if not any(_is_wider(other, kind) for other in told)]
            if kinds:
                yield Hit(elsewhere(subject, kinds, error), error.where, "warning", served=tuple(kinds))


@rule
class Raises(Fails):
    """An exception on inputs that the host may bring."""

    def errors(self, subject: Mounted) -> Mapping[Raised, Sequence[Case]]:
        return subject.evidence(probe).errors


@rule
class RaisesOnNumbers(Fails):
    """An exception that comes with real tensors only."""

    def errors(self, subject: Mounted) -> Mapping[Raised, Sequence[Case]]:
        known = {error.where for error in subject.evidence(probe).errors}
        found = subject.evidence(trial).errors
        return {error: cases for error, cases in found.items() if error.where not in known}


class WrongForm(Probe):
    """A result that differs from the original's in what its numbers do not tell; ``differs(outcome)`` says how."""

    why = "{why}"

    def differs(self, got: Form, expected: Form) -> tuple[object, object] | None:
        raise NotImplementedError

    def mend(self, got: Any, expected: Any) -> str:
        """What to write, where the fix depends on what it is."""
        return ""

    def difference(self, outcome: Outcome) -> tuple[object, object] | None:
        return self.differs(outcome.got, outcome.expected) if isinstance(outcome.got, Form) else None

    def hits(self, subject: Mounted) -> Iterator[Hit]:
        probed = subject.evidence(probe)
        found = {outcome.case: d for outcome in probed.outcomes if (d := self.difference(outcome)) is not None}
        if not found:
            return
        cases = sorted_out(subject, list(found))
        usual = [case for case in found if not odd(subject, case)]
        case = next(iter(usual or found))
        got, expected = found[case]
        values: dict[str, object] = {"got": got, "expected": expected, "mend": self.mend(got, expected)}
        if cases.ordinary:
            values["why"] = f"Called with {case}. {share(list(found), probed.tried)}."
            yield Hit(values, self.where(subject))
        else:
            calls = " or ".join(named(cases.kinds))
            values["why"] = f"So it is with {calls}. {when(subject, cases.kinds)} {SERVED}"
            yield Hit(values, self.where(subject), "warning", served=tuple(cases.kinds))


@rule
class NoTensor(WrongForm):
    """The block goes on with the result as a tensor."""

    what = "returns an object of type {got} instead of a tensor"
    fix = "Return the attention's result alone."

    def difference(self, outcome: Outcome) -> tuple[object, object] | None:
        return (outcome.got, "a tensor") if isinstance(outcome.got, str) else None


_SHAPE = "Bring the result into the shape that the original returns."


def _merging_heads(got: Sequence[int], expected: Sequence[int]) -> str | None:
    """What makes tokens × channels of a result that still has heads: "out.transpose(1, 2).flatten(2)". None where that
    is not what is wrong."""
    if len(expected) != 3:
        return None
    batch, tokens, channels = expected
    match tuple(got):
        case (b, heads, t, dim) if (b, t, heads * dim) == (batch, tokens, channels):
            return "out.transpose(1, 2).flatten(2)"
        case (b, t, heads, dim) if (b, t, heads * dim) == (batch, tokens, channels):
            return "out.flatten(2)"
        case (rows, t, dim) if t == tokens and rows * dim == batch * channels and rows > batch:
            return "out.unflatten(0, (-1, heads)).transpose(1, 2).flatten(2)"
    return None


@rule
class WrongShape(WrongForm):
    """The block adds the result to its input, or reads it as tokens × channels."""

    what = "returns a result of shape {got} instead of {expected}"
    fix = "{mend}"

    def mend(self, got: Any, expected: Any) -> str:
        return f"Merge the heads: {written}." if (written := _merging_heads(got, expected)) else _SHAPE

    def differs(self, got: Form, expected: Form) -> tuple[object, object] | None:
        return (got.shape, expected.shape) if got.shape != expected.shape else None


@rule
class WrongDtype(WrongForm):
    """The next layer's weights are in the model's dtype."""

    what = "returns {got} for {expected} inputs"
    fix = "Convert the result back: .to(q.dtype), or .to(hidden_states.dtype)."

    def differs(self, got: Form, expected: Form) -> tuple[object, object] | None:
        names = [str(form.dtype).removeprefix("torch.") for form in (got, expected)]
        return (names[0], names[1]) if got.dtype != expected.dtype else None


@rule
class WrongDevice(WrongForm):
    """The next layer's weights are on the model's device."""

    what = "returns a result on {got} for inputs on {expected}"
    fix = "Compute where the inputs are; take out .cpu() and the like."

    def differs(self, got: Form, expected: Form) -> tuple[object, object] | None:
        return (got.device, expected.device) if got.device != expected.device else None


@rule
class WrongLayout(WrongForm):
    """A sparse result, for example."""

    what = "returns a {got} tensor instead of a {expected} one"
    fix = "Return an ordinary tensor: .to_dense()."

    def differs(self, got: Form, expected: Form) -> tuple[object, object] | None:
        names = [str(form.layout).removeprefix("torch.") for form in (got, expected)]
        return (names[0], names[1]) if got.layout != expected.layout else None


@rule
class NotFinite(Probe):
    """NaN or Inf from ordinary inputs."""

    what = "returns NaN or Inf for ordinary inputs"
    why = "Inputs were normally distributed, without a mask. One such number spoils the whole picture."
    fix = "Look for divisions by zero, logarithms or a softmax over nothing in forward."

    def hits(self, subject: Mounted) -> Iterator[Hit]:
        if not subject.evidence(trial).finite:
            yield Hit(where=self.where(subject))


@rule
class NotRepeatable(Probe):
    """Two calls with equal inputs differ: random numbers, or something kept between calls."""

    severity = "warning"
    what = "returns a different result when it is called again with the same inputs"
    why = "Its compiled result cannot be compared with the uncompiled one, and the same seed gives different pictures."
    fix = "Take random numbers and what is kept between calls out of forward."

    def hits(self, subject: Mounted) -> Iterator[Hit]:
        if not subject.evidence(trial).repeatable:
            yield Hit(where=self.where(subject))


@rule
class WritesInputs(Probe):
    """Other blocks read the same prompt and the same mask."""

    severity = "warning"
    what = "writes to its input {names}"
    why = "The model goes on using it: the prompt and masks are the same tensors for all blocks."
    fix = "Use the operation without the underscore (add instead of add_), or clone {names} first."

    def hits(self, subject: Mounted) -> Iterator[Hit]:
        wrote = subject.evidence(trial).wrote
        if wrote:
            yield Hit({"names": ", ".join(dict.fromkeys(wrote))}, self.where(subject), uncompiled=True)


@rule
class SetsDefaultDtype(Probe):
    """It is one for the whole process. Where tensors are made by it in the blocks that follow, the picture fails."""

    what = "changes PyTorch's default dtype"
    why = "That is one for all of ComfyUI: what comes after this processor is made in the other dtype."
    fix = "Take out torch.set_default_dtype, and say the dtype where a tensor is made: torch.ones(4, dtype=q.dtype)."

    def hits(self, subject: Mounted) -> Iterator[Hit]:
        if subject.evidence(trial).sets_dtype:
            yield Hit(where=self.where(subject))


@rule
class TrainingMode(Probe):
    """It would be used in training mode, where it computes something else."""

    severity = "warning"
    what = "is in training mode, where its result is different"
    why = "Dropout and the like act in training mode; a picture is made in eval mode."
    fix = "Call eval() on it, or set differs_in_training = True on the class where that is meant."

    def hits(self, subject: Mounted) -> Iterator[Hit]:
        if subject.module.training and not declared(subject) and subject.evidence(trial).training != "equal":
            yield Hit(where=self.where(subject))


@rule
class TrainingDiffers(Probe):
    """Besides random dropout, train() and eval() should agree. In eval mode it does no harm."""

    severity = "note"
    what = "computes something else in training mode"
    why = "It is in eval mode, so the picture is as it should be; training on it would not see what it does here."
    fix = "Use the same computation in both modes, or set differs_in_training = True on the class."

    def hits(self, subject: Mounted) -> Iterator[Hit]:
        if not subject.module.training and not declared(subject) and subject.evidence(trial).training == "differs":
            yield Hit(where=self.where(subject))


def declared(subject: Mounted) -> bool:
    """Whether a class says that training and eval mode differ on purpose."""
    return bool(getattr(subject.module, "differs_in_training", False))
