"""Where compiled code is kept between starts: the user's environment says, else a setting, else the pack's folder."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import folder_paths

from ..compilers import Place
from ..compilers.compile_cache.used_folders import CacheFolders
from .user_settings import user_settings

log = logging.getLogger(__name__)

FOLDER, LIMIT = "ONEDIFF_COMPILE_CACHE", "ONEDIFF_COMPILE_CACHE_MB"
_FOLDER_SETTING, _LIMIT_SETTING = "OneDiff.CompileCache.Folder", "OneDiff.CompileCache.Limit"

#: The pack's own folder inside the one that is named: what else lies there is not touched.
SUBFOLDER = "onediff_compile_cache"

#: Where version 0.4.0 kept it, in the pack's folder.
_OLD = "compile_cache"


def own_folder() -> Path:
    """Where the pack keeps files: a folder of ComfyUI's user directory that no HTTP request reaches."""
    if hasattr(folder_paths, "get_system_user_directory"):
        return Path(folder_paths.get_system_user_directory("onediff"))
    return Path(folder_paths.get_user_directory()) / "__onediff"


def cache_place() -> Place:
    """The folder and its limit. ``ONEDIFF_COMPILE_CACHE=off`` keeps nothing.

    A folder of ComfyUI's, or one that holds such a folder, is not followed, whoever names it: pages put files there,
    or it is served, or what lies there is run.
    """
    settings = user_settings()
    limit = _bytes(os.environ.get(LIMIT)) or _bytes(settings.get(_LIMIT_SETTING)) or Place().limit
    chosen = settings.get(_FOLDER_SETTING)
    named, who = os.environ.get(FOLDER, "").strip(), FOLDER
    if not named and isinstance(chosen, str):
        named, who = chosen.strip(), "the setting “Folder of the compile cache”"
    own, old = own_folder() / SUBFOLDER, own_folder() / _OLD
    others = (own, *_folders().remembered())
    if not named:
        return Place(own, limit, others=others, old=old)
    if named.lower() == "off":
        return Place(None, limit, others=others, old=old)
    folder = Path(named)
    with contextlib.suppress(ValueError):  # no user has such a name
        folder = Path(os.path.expanduser(named))
    refusal = _refusal(folder)
    if refusal is None:
        return Place(folder / SUBFOLDER, limit, others=others, old=old, among=folder)
    log.debug("%s names %s", who, folder)
    instead = "Compiled code is kept in ComfyUI's user folder instead."
    refused = folder if folder.is_absolute() else None
    note = f"The folder that {who} names is not used: {refusal}. {instead}"
    return Place(own, limit, others=others, old=old, refused=refused, note=note)


def cache_size() -> dict[str, int | None]:
    """How large the compile cache is now: ``bytes`` and ``files``, and the ``limit`` in bytes; null where nothing is
    kept."""
    place = cache_place()
    if place.folder is None:
        return {"bytes": None, "files": None, "limit": None}
    sizes = []
    with contextlib.suppress(OSError):
        for file in place.folder.rglob("*"):
            with contextlib.suppress(OSError):  # it is being deleted
                if file.is_file():
                    sizes.append(file.stat().st_size)
    return {"bytes": sum(sizes), "files": len(sizes), "limit": place.limit}


def remember_folder(folder: Path) -> None:
    """Notes where compiled code is kept, for clearing."""
    _folders().remember(folder)


def _folders() -> CacheFolders:
    return CacheFolders(own_folder(), SUBFOLDER)


def _refusal(folder: Path) -> str | None:
    """Why a folder is not used, None when it may be."""
    if not folder.is_absolute():
        return "it is not an absolute path"
    try:
        own = own_folder().resolve()
        named = Path(os.path.abspath(folder))  # through a link in ComfyUI's, which leads elsewhere
        for place in (folder.resolve(), (folder / SUBFOLDER).resolve(), named):
            if _is_within(place, own):
                continue
            for name, other in _comfyui():
                if _is_within(place, other):
                    return f"it is ComfyUI's {name} folder or lies in it"
                if _is_within(other, place):
                    return f"ComfyUI's {name} folder lies in it"
    except (OSError, RuntimeError, ValueError) as error:  # a link to itself, perhaps
        return f"it cannot be found ({type(error).__name__})"
    return None


def _comfyui() -> Iterator[tuple[str, Path]]:
    """ComfyUI's folders by their real paths."""
    yield "user", Path(folder_paths.get_user_directory()).resolve()
    yield "input", Path(folder_paths.get_input_directory()).resolve()
    yield "output", Path(folder_paths.get_output_directory()).resolve()
    yield "temp", Path(folder_paths.get_temp_directory()).resolve()
    yield "models", Path(folder_paths.models_dir).resolve()
    for folder in folder_paths.get_folder_paths("custom_nodes"):
        yield "custom_nodes", Path(folder).resolve()


def _is_within(inner: Path, outer: Path) -> bool:
    """Whether a folder is another one or lies in it, by name or by what the file system says: a disk may ignore case,
    or be there twice."""
    if inner.is_relative_to(outer):
        return True
    if not outer.exists():
        return False
    found = outer.stat()
    return found.st_ino != 0 and any(
        os.path.samestat(found, one.stat()) for one in (inner, *inner.parents) if one.exists()
    )


def _bytes(megabytes: Any) -> int | None:
    """A number of megabytes in bytes, None for anything else."""
    try:
        number = int(megabytes)
    except (TypeError, ValueError, OverflowError):
        return None
    return number * 2**20 if number > 0 else None
