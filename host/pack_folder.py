"""The pack's own folder, whose name decides whether ComfyUI serves its web files."""

from __future__ import annotations

import logging
import urllib.parse
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from aiohttp import web
from yarl import URL

log = logging.getLogger(__name__)

FOLDER = Path(__file__).parent.parent
SAFE_NAME = "comfyui-onediff"

#: A file that the editor loads.
_ASKED = "onediff.js"


async def warn_of_name(folder: Path = FOLDER) -> None:
    """Says once in the console when the folder's name keeps parts of the pack from the editor."""
    if not await _is_served(folder):
        log.warning(
            "OneDiff: ComfyUI serves no web files from a folder named “%s”, so the editor shows no status lines, no "
            "reports and no help pages of this pack. Rename the folder to %s and restart ComfyUI.",
            folder.name,
            SAFE_NAME,
        )
    elif "." in folder.name or "@" in folder.name:
        log.warning(
            "OneDiff: the editor finds no help pages of a pack in a folder named “%s”. Rename the folder to %s and "
            "restart ComfyUI.",
            folder.name,
            SAFE_NAME,
        )


async def _is_served(folder: Path) -> bool:
    """Whether a router finds a web file of the folder, added as ComfyUI adds it and asked for as the editor asks."""
    prefix = "/extensions/"
    router = web.UrlDispatcher()
    try:
        router.add_static(prefix + folder.name, folder / "web")
        url = URL(f"{prefix}{urllib.parse.quote(folder.name)}/{_ASKED}", encoded=True)
        request = SimpleNamespace(method="GET", rel_url=url)
        found = await router.resolve(cast(Any, request))
    except ValueError:  # a name that aiohttp does not take
        return False
    except Exception:  # another aiohttp may look at more of a request; then nothing is known
        return True
    return found.http_exception is None
