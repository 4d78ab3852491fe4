"""A user's own styles for prompts: JSON files in ``models/prompt_styles``.

Each is a list of ``{"name": "Ink", "prompt": "ink drawing of {prompt}", "negative_prompt": "photo"}``, the format of
the styles that OneDiff's node came with.
"""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import folder_paths

log = logging.getLogger(__name__)

FOLDER = "prompt_styles"
NO_STYLE = "(No style)"

#: Larger files, and more of them, are not read.
MOST_BYTES, MOST_FILES = 2**20, 50


class Style(NamedTuple):
    """``{prompt}`` in ``prompt`` is where a person's text goes."""

    prompt: str
    negative: str


def register_folder() -> None:
    folder_paths.add_model_folder_path(FOLDER, os.path.join(folder_paths.models_dir, FOLDER), is_default=True)


def style_names() -> list[str]:
    return [NO_STYLE, *styles()]


def styles() -> dict[str, Style]:
    """All styles by name; of equal names the later ones end in ``_1``, ``_2``, as OneDiff's node numbered them."""
    found: dict[str, Style] = {}
    read: Counter[str] = Counter()
    for file in _files():
        for name, style in _read(file):
            key = f"{name}_{read[name]}" if read[name] else name
            while key in found:  # somebody's own name ends in a number
                read[name] += 1
                key = f"{name}_{read[name]}"
            read[name] += 1
            found[key] = style
    return found


def fingerprint() -> str:
    """Changes when a file changes."""
    return repr([(str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in _files()])


def _files() -> list[Path]:
    folders = [Path(folder) for folder in folder_paths.get_folder_paths(FOLDER)]
    found = [file for folder in folders if folder.is_dir() for file in sorted(folder.glob("*.json"))]
    return [file for file in found if file.is_file() and file.stat().st_size <= MOST_BYTES][:MOST_FILES]


def _read(file: Path) -> list[tuple[str, Style]]:
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
        return [
            (str(entry["name"]), Style(str(entry.get("prompt", "")), str(entry.get("negative_prompt", ""))))
            for entry in entries
        ]
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        log.warning("OneDiff: %s holds no list of styles (%s).", file.name, error)
        return []
