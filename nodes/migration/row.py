"""What the table says of one old id."""

from __future__ import annotations

from dataclasses import dataclass

from .fields import Field


@dataclass(frozen=True)
class Row:
    """One id. ``kind`` says what it does (``node.py``), ``stands_for`` the same for a person. ``quantises`` and
    ``caches``: it did that in OneDiff. ``names`` are the outputs' where they differ from their types."""

    id: str
    title: str
    kind: str
    stands_for: str
    inputs: tuple[Field, ...]
    outputs: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    quantises: bool = False
    caches: bool = False

    @property
    def named_outputs(self) -> list[tuple[str, str]]:
        names = self.names or ("",) * len(self.outputs)
        return list(zip(names, self.outputs, strict=True))

    def has(self, name: str) -> bool:
        return any(field.name == name for field in self.inputs)
