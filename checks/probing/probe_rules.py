"""Rules on what a processor does when it is called, without and with numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from ..mounted import Mounted
from ..rule import Hit, Layer, Rule, Subject, rule
from ..source import function_location
from .cases import Mask, in_words, share
from .probe import Form, Outcome, probe
from .trial import trial


class Probe(Rule):
    """A rule on a processor at its site."""

    layer: ClassVar[Layer] = "probe"
    subject: ClassVar[type[Subject]] = Mounted

    def where(self, subject: Mounted) -> str | None:
        return function_location(type(subject.module).forward)


@rule
class Raises(Probe):
    """An exception on inputs that the host may bring."""

    what = "raises {error}"
    why = "Called with {case}. {share}."
    fix = "Correct that line for such inputs: a run that brings them stops there."

    def hits(self, subject: Mounted) -> Iterator[Hit]:
        probed = subject.evidence(probe)
        for error, failing in probed.errors.items():
            values = {"error": error.error, "case": failing[0], "share": share(failing, probed.tried)}
            yield Hit(values, error.where)


@rule
class RaisesOnNumbers(Probe):
    """An exception that comes with real tensors only."""

    what = "raises {error}"
    why = "It takes tensors of these shapes; with real numbers in them it fails."
    fix = "Correct that line: every run stops there."

    def hits(self, subject: Mounted) -> Iterator[Hit]:
        if not subject.evidence(probe).errors and (error := subject.evidence(trial).error) is not None:
            yield Hit({"error": error.error}, error.where)


class WrongForm(Probe):
    """A result that differs from the original's in what its numbers do not tell; ``differs(outcome)`` says how."""

    why = "Called with {case}. {share}."

    def differs(self, got: Form, expected: Form) -> tuple[object, object] | None:
        raise NotImplementedError

    def difference(self, outcome: Outcome) -> tuple[object, object] | None:
        return self.differs(outcome.got, outcome.expected) if isinstance(outcome.got, Form) else None

    def hits(self, subject: Mounted) -> Iterator[Hit]:
        probed = subject.evidence(probe)
        found = [(outcome, d) for outcome in probed.outcomes if (d := self.difference(outcome)) is not None]
        if found:
            outcome, (got, expected) = found[0]
            values = {"got": got, "expected": expected, "case": outcome.case}
            values["share"] = share([outcome.case for outcome, _ in found], probed.tried)
            yield Hit(values, self.where(subject))


@rule
class NoTensor(WrongForm):
    """The block goes on with the result as a tensor."""

    what = "returns an object of type {got} instead of a tensor"
    fix = "Return the attention's result alone."

    def difference(self, outcome: Outcome) -> tuple[object, object] | None:
        return (outcome.got, "a tensor") if isinstance(outcome.got, str) else None


@rule
class WrongShape(WrongForm):
    """The block adds the result to its input, or reads it as tokens × channels."""

    what = "returns a result of shape {got} instead of {expected}"
    fix = "Bring the result into the shape that the original returns."

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

    what = "writes to its input {names}"
    why = "The model goes on using it: the prompt and masks are the same tensors for all blocks."
    fix = "Use the operation without the underscore (add instead of add_), or clone {names} first."

    def hits(self, subject: Mounted) -> Iterator[Hit]:
        wrote = subject.evidence(trial).wrote
        if wrote:
            yield Hit({"names": ", ".join(dict.fromkeys(wrote))}, self.where(subject))


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


class Masks(Probe):
    """A rule on masks; ``forms(subject)`` are those that break it."""

    def forms(self, subject: Mounted) -> Sequence[Mask]:
        raise NotImplementedError

    def hits(self, subject: Mounted) -> Iterator[Hit]:
        forms = self.forms(subject)
        if forms:
            yield Hit({"masks": in_words(forms)}, self.where(subject))


@rule
class IgnoresMask(Masks):
    """It takes a mask and computes as if there were none."""

    severity = "warning"
    what = "takes a mask and does not use it"
    why = "Its result is the same with {masks} as without. Regional prompts would have no effect."
    fix = "Use the mask, or take it out of forward: calls with one are then computed by PyTorch's attention."

    def forms(self, subject: Mounted) -> Sequence[Mask]:
        return subject.evidence(trial).ignored


@rule
class InvertsMask(Masks):
    """True means "takes part" in PyTorch's attention, "left out" in some others."""

    what = "reads masks the wrong way round"
    why = "With {masks}, its result is that of PyTorch's attention for the reversed mask."
    fix = "Let True mean that a key takes part, and add additive masks to the scores."

    def forms(self, subject: Mounted) -> Sequence[Mask]:
        return subject.evidence(trial).inverted


@rule
class MisreadsMask(Masks):
    """Without a mask its result is PyTorch's, with one it is not."""

    what = "applies masks in another way than PyTorch's attention"
    why = "Without a mask both agree; with {masks} they do not."
    fix = "Bool: keys where it is False get -inf before the softmax. Additive: add it to the scaled scores."

    def forms(self, subject: Mounted) -> Sequence[Mask]:
        return subject.evidence(trial).misread


def declared(subject: Mounted) -> bool:
    """Whether a class says that training and eval mode differ on purpose."""
    return bool(getattr(subject.module, "differs_in_training", False))
