"""The safetensors files that the node Load Attention Processor lists, and loading one."""

from __future__ import annotations

import os
from pathlib import Path

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import folder_paths

from ...processors.loaded.file import LoadedFile, load
from ...processors.loaded.unusable import Unusable
from ...processors.sources.listing import is_one_line
from ...processors.sources.user_files import USER_FOLDER
from ..prompt_ends import CANCEL

#: Another folder of ComfyUI's models, where people keep IP-Adapter's files; its name stands before theirs.
IP_FOLDER = "ipadapter"

EXTENSION = ".safetensors"

#: What the list says where there are none.
NONE = f"no {EXTENSION} file in models/{USER_FOLDER} or models/{IP_FOLDER}"


def register_ip_folder() -> None:
    """Lets ComfyUI know ``models/ipadapter``, which other packs may have named before. It is not made."""
    folder_paths.add_model_folder_path(IP_FOLDER, os.path.join(folder_paths.models_dir, IP_FOLDER))


def listed() -> list[str]:
    """The files of both folders."""
    return [*_in(USER_FOLDER), *(f"{IP_FOLDER}/{name}" for name in _in(IP_FOLDER))] or [NONE]


def fingerprint(name: object) -> str:
    """Changes when a listed file does."""
    try:
        state = os.stat(_path(name)[0])
    except (Unusable, OSError):
        return ""
    return f"{state.st_mtime_ns} {state.st_size}"


def load_file(name: object) -> LoadedFile:
    """A listed file, with its weights known to ComfyUI's memory management.

    Raises:
        Unusable: for a name that is not listed, and for a file that cannot be used.
    """
    path, shown = _path(name)
    file = load(path, shown, comfy.ops.manual_cast, CANCEL.check)
    if file.weights is None:
        return file
    return file.managed(patcher_of(file.weights))


def patcher_of(module: object) -> comfy.model_patcher.ModelPatcher:
    """What counts, moves and offloads a module's weights."""
    return comfy.model_patcher.CoreModelPatcher(
        module,
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )


def _in(folder: str) -> list[str]:
    try:
        names = folder_paths.get_filename_list(folder)
    except (KeyError, OSError):  # it is not there
        return []
    return sorted(name.replace(os.sep, "/") for name in names if name.lower().endswith(EXTENSION) and is_one_line(name))


def _path(name: object) -> tuple[Path, str]:
    """Where a listed file is, and how people are told: no path is made from a name that is not listed."""
    files = [one for one in listed() if one != NONE]
    if not isinstance(name, str) or name not in files:
        fix = f"choose one of {', '.join(files[:5])}" if files else f"put it into models/{USER_FOLDER} and press R"
        raise Unusable(_shown(name), f"is not among the files of models/{USER_FOLDER} and models/{IP_FOLDER}", fix)
    folder, file = USER_FOLDER, name
    if name not in _in(USER_FOLDER):
        folder, file = IP_FOLDER, name.removeprefix(f"{IP_FOLDER}/")
    path = folder_paths.get_full_path(folder, file)
    if path is None:
        raise Unusable(
            f"models/{folder}/{file}", "is no file that can be opened", "press R in the editor and choose another"
        )
    return Path(path), f"models/{folder}/{file}"


def _shown(name: object) -> str:
    return name[:80] if isinstance(name, str) and name.isprintable() and name else "the file"
