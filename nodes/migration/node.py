"""Makes the class of an old node from its row of the table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from comfy_api.latest import io

from ...host.migration import prompt_styles
from ...host.server import begin_start, new_record, schema, ui
from . import boosters, comparing, compiling, passing, prompts
from .given import Given, merged
from .row import Row

#: Where the editor lists them when deprecated nodes are shown.
CATEGORY = "OneDiff/old"

#: What each kind does: it gives the outputs, and says what it did in the record. A dict is shown as ``ui`` too.
KINDS: dict[str, Callable[[Given], tuple]] = {
    "compile": compiling.compile_model,
    "load": compiling.load,
    "no model": compiling.no_model,
    "booster": boosters.booster,
    "vae": compiling.compile_vae,
    "control": compiling.compile_control,
    "load control": compiling.load_control,
    "graphs": passing.graphs,
    "not needed": passing.not_needed,
    "quantise": passing.quantise,
    "sample": passing.sample,
    "style": prompts.encode,
    "compare": comparing.compare_models,
    "difference": comparing.show_difference,
}

_COMPILING = frozenset({"compile", "load", "vae", "control", "load control"})


class OldNode(io.ComfyNode):
    """One id of OneDiff's own pack. ``ROW`` says which."""

    ROW: Row

    @classmethod
    def define_schema(cls) -> io.Schema:
        row = cls.ROW
        return schema(
            node_id=row.id,
            display_name=row.title,
            category=CATEGORY,
            description=row.stands_for,
            is_deprecated=True,
            is_output_node=not row.outputs,
            not_idempotent=True,
            has_intermediate_output=True,
            inputs=[field.input() for field in row.inputs],
            outputs=[io.Custom(kind).Output(display_name=name or None) for name, kind in row.named_outputs],
            hidden=[io.Hidden.unique_id, io.Hidden.extra_pnginfo, io.Hidden.dynprompt],
        )

    @classmethod
    def validate_inputs(cls, **kwargs: Any) -> bool:
        """Values of any kind are taken, and what cannot be used is said in the record."""
        if cls.ROW.kind in _COMPILING:
            begin_start("auto")
        return True

    @classmethod
    def fingerprint_inputs(cls, **kwargs: Any) -> str:
        """A user's styles are read again when a file has changed."""
        return prompt_styles.fingerprint() if cls.ROW.kind == "style" else ""

    @classmethod
    def execute(cls, **inputs: Any) -> io.NodeOutput:
        record = new_record(cls.hidden)
        given = Given(cls.ROW, cls, record, merged(inputs, _sent(cls.hidden)))
        outputs = KINDS[cls.ROW.kind](given)
        return io.NodeOutput(*outputs, ui={**given.shown, **ui(record)})


def made(row: Row) -> type[OldNode]:
    return type(row.id, (OldNode,), {"ROW": row, "__doc__": row.stands_for})


def _sent(hidden: Any) -> Any:
    """The node's inputs in the prompt, values that ComfyUI does not hand on included."""
    prompt = hidden.dynprompt
    return prompt.get_node(hidden.unique_id)["inputs"] if prompt is not None else None
