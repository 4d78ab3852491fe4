"""Where compiled code is kept between starts: the user's environment says, else a setting, else the pack's folder."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import folder_paths

from ..compilers import Place
from .own_folder import own_folder

log = logging.getLogger(__name__)

FOLDER, LIMIT = "ONEDIFF_COMPILE_CACHE", "ONEDIFF_COMPILE_CACHE_MB"
_FOLDER_SETTING, _LIMIT_SETTING = "OneDiff.CompileCache.Folder", "OneDiff.CompileCache.Limit"


def cache_place() -> Place:
    """The folder and its limit. ``ONEDIFF_COMPILE_CACHE=off`` keeps nothing.

    A setting comes from the page: one that names a folder where pages upload files, or which ComfyUI serves, is not
    followed.
    """
    settings = _settings()
    limit = _bytes(os.environ.get(LIMIT)) or _bytes(settings.get(_LIMIT_SETTING)) or Place().limit
    named = os.environ.get(FOLDER, "").strip()
    if named:
        return Place(None if named.lower() == "off" else Path(os.path.expanduser(named)), limit)
    chosen = settings.get(_FOLDER_SETTING)
    if isinstance(chosen, str) and chosen.strip():
        if chosen.strip().lower() == "off":
            return Place(None, limit)
        folder = Path(os.path.expanduser(chosen.strip()))
        if folder.is_absolute() and not _is_open(folder):
            return Place(folder, limit)
        log.warning("OneDiff: the setting for the compile cache names %s, which is not used: %s.", folder, _RULE)
    return Place(own_folder() / "compile_cache", limit)


_RULE = "it must be an absolute path outside of ComfyUI's input, output, temp and models folders"


def _is_open(folder: Path) -> bool:
    """Whether a page can put files there."""
    kinds = (folder_paths.get_input_directory(), folder_paths.get_output_directory(), folder_paths.get_temp_directory())
    return any(folder.resolve().is_relative_to(Path(kind).resolve()) for kind in (*kinds, folder_paths.models_dir))


def _settings() -> dict[str, Any]:
    """The default user's settings, as the page saved them."""
    file = Path(folder_paths.get_user_directory()) / "default" / "comfy.settings.json"
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _bytes(megabytes: Any) -> int | None:
    """A number of megabytes in bytes, None for anything else."""
    try:
        number = int(megabytes)
    except (TypeError, ValueError, OverflowError):
        return None
    return number * 2**20 if number > 0 else None
