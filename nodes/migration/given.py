"""What an old node was given, and how it says what it did with it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ...checks import Finding, Report
from ...host.known_values import (
    WrongInput,
    known,
    model_given,
    number_given,
    shown,
    switch_given,
    text_given,
    unknown_value,
)
from ...host.migration.prompt_values import ASIDE
from ...host.migration.stock_nodes import find_file
from ...status import Record

if TYPE_CHECKING:
    from .row import Row

_ON_OFF = {"enable": True, True: True, "disable": False, False: False}


@dataclass
class Given:
    """One run of an old node. ``inputs`` has the values by name: links as what they brought, all of them optional.
    ``node`` is the class as ComfyUI prepared it for this run."""

    row: Row
    node: Any
    record: Record
    inputs: dict[str, Any]
    findings: list[Finding] = field(default_factory=list)
    #: What ComfyUI shows below the node, such as pictures.
    shown: dict[str, Any] = field(default_factory=dict)

    def __contains__(self, name: str) -> bool:
        value = self.inputs.get(name)
        return value is not None and not (isinstance(value, str) and value == "")

    def on(self, name: str) -> bool:
        """Whether a choice of "enable" and "disable" is on; its default when there is none."""
        first = next((item.default for item in self.row.inputs if item.name == name), "enable")
        value = self.inputs.get(name, first)
        if isinstance(value, str | bool) and value in _ON_OFF:
            return _ON_OFF[value]
        self.findings.append(unknown_value(self.row.id, name, value, ("enable", "disable"), str(first)))
        return _ON_OFF[first]

    def flag(self, name: str, default: bool) -> bool:
        return switch_given(self.row.id, name, self.inputs.get(name, default), default, self.findings)

    def text(self, name: str, default: str = "") -> str:
        return text_given(self.row.id, name, self.inputs.get(name, default), default, self.findings)

    def choice(self, name: str, options: tuple[str, ...]) -> str:
        """One of ``options``; the first when nothing, or something else, was given."""
        return known(self.row.id, name, self.inputs.get(name, options[0]), options, self.findings)

    def number(self, name: str, default: float, least: float, most: float) -> float:
        return number_given(self.row.id, name, self.inputs.get(name, default), default, least, most, self.findings)

    def model(self, name: str = "model") -> Any:
        """The MODEL.

        Raises:
            WrongInput: when there is none.
        """
        if name == "model":
            model_given(self.row.title, self.row.id, self.inputs.get(name), self.record)
        elif not hasattr(self.inputs.get(name), "get_model_object"):
            self.end(name, f"{name} is {shown(self.inputs.get(name))}, not a MODEL", "Connect a node that loads one.")
        return self.inputs[name]

    def file(self, name: str, folder: str) -> str:
        """The name of a file in a folder of models.

        Raises:
            WrongInput: when it is not there.
        """
        found = find_file(folder, self.inputs.get(name))
        if found is None:
            self.end(
                name,
                f"{name} {shown(self.inputs.get(name))} is not in models/{folder}",
                "Put the file there, or choose one from the list.",
            )
        return str(found)

    def passed_on(self) -> tuple:
        """What came in, for each output that of its type."""
        names = {field.kind: field.name for field in self.row.inputs}
        return tuple(self.inputs.get(names[kind]) for kind in self.row.outputs)

    def note(self, path: str, what: str, why: str, fix: str, severity: Any = "note") -> None:
        self.findings.append(Finding(severity, path, self.row.id, "input", what, why, fix))

    def lost(self, path: str, what: str, why: str, fix: str) -> None:
        """Says of something that was asked for that it is not done."""
        self.note(path, what, why, fix, "warning")

    def end(self, path: str, what: str, fix: str) -> None:
        """Ends the run.

        Raises:
            WrongInput: always; the record has the same finding.
        """
        finding = Finding("error", path, self.row.id, "input", what, "The run stops here.", fix)
        self.record.update(state="failed", check=Report(0, 0, (finding, *self.findings)).as_dict())
        raise WrongInput(self.row.title, str(self.record["node"]), finding)

    def say(self, what: str, why: str = "", fix: str = "") -> None:
        """Makes ``what`` the node's line: it passed on what it was given."""
        first = Finding("note", "", self.row.id, "node", what, why, fix)
        self.record.update(state="passed", check=Report(0, 0, (first, *self.findings)).as_dict())


def merged(inputs: dict[str, Any], sent: Any) -> dict[str, Any]:
    """The inputs as a node is called with them, and those that were put aside, by their own names. ``sent`` are those
    of the prompt."""
    aside = {
        name.removesuffix(ASIDE): value.get("__value__") if isinstance(value, dict) else value
        for name, value in (sent.items() if isinstance(sent, dict) else ())
        if name.endswith(ASIDE)
    }
    return inputs | aside
