"""What the user set on the settings page, as far as the server needs it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import folder_paths

from ..compilers import compile_seconds_asked

SECONDS_SETTING = "OneDiff.Compile.Seconds"


def user_settings() -> dict[str, Any]:
    """The default user's settings, as the page saved them."""
    file = Path(folder_paths.get_user_directory()) / "default" / "comfy.settings.json"
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def locale() -> str:
    """The language of the page: "zh", "pt-BR"."""
    chosen = user_settings().get("Comfy.Locale")
    return chosen if isinstance(chosen, str) else "en"


def compile_seconds() -> float | None:
    """Seconds of compiling in one sampling: the environment says, else the setting; None leaves it to the node's
    effort."""
    asked = compile_seconds_asked()
    if asked is not None:
        return asked
    chosen = user_settings().get(SECONDS_SETTING)
    if not isinstance(chosen, int | float) or isinstance(chosen, bool):
        return None
    return float(chosen) if math.isfinite(chosen) and chosen > 0 else None
