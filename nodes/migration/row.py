"""What the table says of one old id, and sentences that several of them share."""

from __future__ import annotations

from dataclasses import dataclass

from .fields import Field

#: Said in several places: by the nodes, of them, and of their inputs.
NO_INT8 = "int8 is no longer available; it was part of OneDiff Enterprise"
NO_INT8_MODELS = "int8 models of OneDiff Enterprise cannot be loaded"
CACHES = "DeepCache leaves the deep blocks out in some steps, which changes the picture"
SAVED_ANYWAY = "compiled code is saved automatically"
ANY_SIZE = "OneDiff Compile works with every size and batch size"
OFF_HINT = "disable: it runs uncompiled."


@dataclass(frozen=True)
class Row:
    """One id. ``kind`` says what it does (``node.py``), ``stands_for`` the same for a person. ``quantises``: it did
    that in OneDiff. ``caches``: it has the settings of DeepCache. ``names`` are the outputs' where they differ from
    their types."""

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
