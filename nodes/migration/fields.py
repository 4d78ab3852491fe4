"""The inputs of old nodes: each optional, with the name and the order it was saved with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from comfy_api.latest import io

from ...host.migration.prompt_styles import style_names
from ...host.migration.stock_nodes import files, samplers, schedulers

#: Choices that are made anew for each list of nodes.
LISTS = {"style": style_names, "sampler_name": samplers, "scheduler": schedulers}

IDLE = "Kept for old workflows; it has no effect."


@dataclass(frozen=True)
class Field:
    """One input. ``kind`` is what ComfyUI calls its type. A COMBO has ``options``, or the files of a ``folder`` of
    models, or a list of ``LISTS`` by its name."""

    name: str
    kind: str
    default: Any = None
    options: tuple[str, ...] = ()
    least: float = 0
    most: float = 0
    folder: str = ""
    lines: bool = False
    tooltip: str | None = None

    @property
    def is_link(self) -> bool:
        return self.kind not in _WIDGETS

    def input(self) -> io.Input:
        common = {"optional": True, "tooltip": self.tooltip}
        if self.is_link:
            return io.Custom(self.kind).Input(self.name, **common)
        if self.kind == "COMBO":
            return io.Combo.Input(self.name, options=self.choices(), default=self.default, **common)
        if self.kind in ("INT", "FLOAT"):
            seed = {"control_after_generate": True} if self.name == "seed" else {}
            kind = io.Int if self.kind == "INT" else io.Float
            return kind.Input(self.name, default=self.default, min=self.least, max=self.most, **seed, **common)
        if self.kind == "STRING":
            return io.String.Input(self.name, default=self.default, multiline=self.lines, **common)
        return io.Boolean.Input(self.name, default=self.default, **common)

    def choices(self) -> list[str]:
        if self.folder:
            return files(self.folder)
        return LISTS[self.name]() if self.name in LISTS else list(self.options)


_WIDGETS = ("COMBO", "INT", "FLOAT", "STRING", "BOOLEAN")


def idle(field: Field) -> Field:
    """The field, marked as one without an effect."""
    return replace(field, tooltip=IDLE)


def link(name: str, kind: str) -> Field:
    return Field(name, kind)


def switch(name: str, first: str = "enable", tooltip: str | None = None) -> Field:
    """ "enable" or "disable"; ``first`` is the default."""
    return Field(name, "COMBO", first, (first, "disable" if first == "enable" else "enable"), tooltip=tooltip)


def flag(name: str, default: bool, tooltip: str | None = None) -> Field:
    return Field(name, "BOOLEAN", default, tooltip=tooltip)


def text(name: str, default: str = "", lines: bool = False) -> Field:
    return Field(name, "STRING", default, lines=lines)


def whole(name: str, default: int, least: int, most: int, tooltip: str | None = None) -> Field:
    return Field(name, "INT", default, least=least, most=most, tooltip=tooltip)


def number(name: str, default: float, least: float, most: float) -> Field:
    return Field(name, "FLOAT", default, least=least, most=most)


def file(name: str, folder: str) -> Field:
    return Field(name, "COMBO", folder=folder)
