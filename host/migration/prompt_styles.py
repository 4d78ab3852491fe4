"""A user's own styles for prompts: JSON files in ``models/prompt_styles``.

Each is a list of ``{"name": "Ink", "prompt": "ink drawing of {prompt}", "negative_prompt": "photo"}``, the format of
the styles that OneDiff's node came with.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import stat
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import folder_paths

from ...processors.sources.latest import Latest

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
    """All styles by name; of equal names the later ones end in ``_1``, ``_2``, as OneDiff's node numbered them. Where
    a disk does not answer soon, those of the last look."""
    return dict(_LATEST.get().styles)


def fingerprint() -> str:
    """Changes when a file changes."""
    return _LATEST.get().state


@dataclass(frozen=True)
class _Read:
    styles: Mapping[str, Style] = field(default_factory=dict)
    state: str = ""


def _read_all() -> _Read:
    files = _files()
    state = repr([(str(file), status.st_mtime_ns, status.st_size) for file, status in files])
    return _Read(_named([file for file, _ in files]), state)


_LATEST: Latest[_Read] = Latest(_read_all, _Read())


def _named(files: Sequence[Path]) -> dict[str, Style]:
    found: dict[str, Style] = {}
    read: Counter[str] = Counter()
    for file in files:
        for name, style in _read(file):
            key = f"{name}_{read[name]}" if read[name] else name
            while key in found:  # somebody's own name ends in a number
                read[name] += 1
                key = f"{name}_{read[name]}"
            read[name] += 1
            found[key] = style
    return found


def _files() -> list[tuple[Path, os.stat_result]]:
    found = []
    for folder in map(Path, folder_paths.get_folder_paths(FOLDER)):
        try:
            names = sorted(name for name in os.listdir(folder) if name.endswith(".json"))
        except FileNotFoundError:
            continue  # nobody made it
        except OSError as error:
            log.warning("OneDiff: models/%s cannot be read (%s).", FOLDER, error.strerror)
            continue
        for name in names:
            with contextlib.suppress(OSError):
                status = os.stat(folder / name)
                if stat.S_ISREG(status.st_mode) and status.st_size <= MOST_BYTES:
                    found.append((folder / name, status))
    return found[:MOST_FILES]


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
