"""The nodes of OneDiff's own pack, by their old ids: workflows made with them run again."""

from __future__ import annotations

from comfy_api.latest import io

from ...host.migration.prompt_styles import register_folder
from ...host.migration.prompt_values import accept_any_value
from ...host.migration.stock_nodes import is_taken
from .node import made
from .table import ROWS


def old_nodes() -> list[type[io.ComfyNode]]:
    """A class for each old id that no other pack has registered: OneDiff's own pack, where it loads, keeps its own."""
    free = [row for row in ROWS if not is_taken(row.id)]
    register_folder()
    classes: dict[str, type[io.ComfyNode]] = {row.id: made(row) for row in free}
    accept_any_value(dict(classes), {row.id: {field.name: field.kind for field in row.inputs} for row in free})
    return list(classes.values())
