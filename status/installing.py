"""How a missing package is installed here: texts name the Python that runs ComfyUI, which in portable builds no other
command reaches."""

from __future__ import annotations

import re
import sys
from functools import cache
from pathlib import Path, PurePath

_PIP = re.compile(r"“pip (install [^”]+)”(?: in ComfyUI's Python)?")


def with_python(text: str) -> str:
    """``Run “pip install a”.`` becomes ``Run “python_embeded\\python.exe -m pip install a”.`` in a portable build."""
    return _PIP.sub(lambda found: f"“{python()} -m pip {found[1]}”", text) if "“pip install" in text else text


@cache
def python() -> str:
    """The Python that runs, as it can be typed in the folder that ComfyUI was started in. Nobody's name is in it: texts
    are shared."""
    return shown(Path(sys.executable), Path.cwd(), Path.home(), windows=sys.platform == "win32")


def shown(executable: PurePath, started_in: PurePath, home: PurePath, *, windows: bool) -> str:
    """A path as a person can type it: relative, from the home folder, or whole."""
    text, before = str(executable), ""
    if executable.is_relative_to(started_in):
        text = str(executable.relative_to(started_in))
        text = text if windows else f"./{text}"
    elif executable.is_relative_to(home):
        inside = executable.relative_to(home)
        text, before = (
            (f"%USERPROFILE%\\{inside}", "") if windows else (str(inside), "~/")
        )  # no shell reads ~ in quotes
    return f'{before}"{text}"' if " " in text else f"{before}{text}"
