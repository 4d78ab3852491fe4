"""The pack's folder in ComfyUI's user directory."""

from __future__ import annotations

from pathlib import Path

import folder_paths


def own_folder() -> Path:
    """Where the pack keeps files: a folder of ComfyUI's user directory that no HTTP request reaches."""
    if hasattr(folder_paths, "get_system_user_directory"):
        return Path(folder_paths.get_system_user_directory("onediff"))
    return Path(folder_paths.get_user_directory()) / "__onediff"
