"""Whose a file or folder is on Windows, which has no owner and mode bits that Python could read.

What cannot be found out counts as "somebody else's": nothing is kept then.
"""

from __future__ import annotations

import ctypes
import logging
import re
from functools import cache
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

#: The system and its administrators, who can run code here anyway.
_ADMINISTRATORS = frozenset({"SY", "S-1-5-18", "BA", "S-1-5-32-544"})

#: Whoever owns the file, or will own what is made in the folder.
_OWNER = frozenset({"OW", "S-1-3-4", "CO", "S-1-3-0"})

_DESCRIPTOR = re.compile(r"O:(S[-0-9]+|[A-Z]{2})(?:G:(?:S[-0-9]+|[A-Z]{2}))?D:[A-Z]*((?:\([^()]*\))*)")

_FILE, _OWNER_AND_ACCESS = 1, 1 | 4
_TOKEN_QUERY, _TOKEN_USER = 8, 1
_ALREADY_EXISTS = 183


def is_own(place: Path | int) -> bool:
    """Whether a folder, or an open file, is this user's or the administrators' and lets nobody else in."""
    try:
        return is_own_by(_descriptor(place), _user())
    except (OSError, AttributeError, ValueError) as error:
        log.debug("whose %s is cannot be found out: %s", place, error)
        return False


def is_own_by(descriptor: str, user: str) -> bool:
    """What a security descriptor says, as text: "O:S-1-5-21-7D:PAI(A;OICI;FA;;;SY)" is owned by the user S-1-5-21-7
    and open to the system alone. No access list means that everybody may do everything."""
    found = _DESCRIPTOR.fullmatch(descriptor)
    if found is None:
        return False
    trusted = {user, *_ADMINISTRATORS} | ({"LA"} if user.endswith("-500") else set())
    if found[1] not in trusted:
        return False
    entries = [entry.split(";") for entry in re.findall(r"\(([^()]*)\)", found[2])]
    return all(len(e) == 6 and (e[0] == "D" or e[5] in trusted | _OWNER) for e in entries)


def make_private(folder: Path) -> None:
    """Makes a folder that lets in this user, the system and administrators; what is made in it inherits that.

    Raises:
        OSError: when it cannot be made.
    """
    allowed = "".join(f"(A;OICI;FA;;;{who})" for who in ("SY", "BA", _user()))
    advapi32, kernel32 = _libraries()
    descriptor = ctypes.c_void_p()
    convert = advapi32.ConvertStringSecurityDescriptorToSecurityDescriptorW
    _check(convert(ctypes.c_wchar_p(f"D:P{allowed}"), 1, ctypes.byref(descriptor), None))
    try:
        attributes = _SecurityAttributes(ctypes.sizeof(_SecurityAttributes), descriptor, False)
        if not kernel32.CreateDirectoryW(ctypes.c_wchar_p(str(folder)), ctypes.byref(attributes)):
            error = _last_error()
            if error.winerror != _ALREADY_EXISTS:
                raise error
    finally:
        kernel32.LocalFree(descriptor)


class _SecurityAttributes(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint32), ("descriptor", ctypes.c_void_p), ("inherit", ctypes.c_int))


def _descriptor(place: Path | int) -> str:
    """Owner and access list of a folder, or of an open file, as text."""
    advapi32, kernel32 = _libraries()
    descriptor, text = ctypes.c_void_p(), ctypes.c_void_p()
    none: tuple[None, ...] = (None, None, None, None)
    if isinstance(place, int):
        handle = ctypes.c_void_p(_handle(place))
        code = advapi32.GetSecurityInfo(handle, _FILE, _OWNER_AND_ACCESS, *none, ctypes.byref(descriptor))
    else:
        name = ctypes.c_wchar_p(str(place))
        code = advapi32.GetNamedSecurityInfoW(name, _FILE, _OWNER_AND_ACCESS, *none, ctypes.byref(descriptor))
    if code:
        raise OSError(code, "its security descriptor cannot be read")
    try:
        convert = advapi32.ConvertSecurityDescriptorToStringSecurityDescriptorW
        _check(convert(descriptor, 1, _OWNER_AND_ACCESS, ctypes.byref(text), None))
        return _taken(text)
    finally:
        kernel32.LocalFree(descriptor)


def _user() -> str:
    """The security identifier of whom this process runs as."""
    advapi32, kernel32 = _libraries()
    token, size, text = ctypes.c_void_p(), ctypes.c_uint32(), ctypes.c_void_p()
    kernel32.GetCurrentProcess.restype = ctypes.c_void_p
    process = ctypes.c_void_p(kernel32.GetCurrentProcess())
    _check(advapi32.OpenProcessToken(process, _TOKEN_QUERY, ctypes.byref(token)))
    try:
        buffer = ctypes.create_string_buffer(1024)
        about = (token, _TOKEN_USER, buffer, len(buffer), ctypes.byref(size))
        _check(advapi32.GetTokenInformation(*about))
        identifier = ctypes.cast(buffer, ctypes.POINTER(ctypes.c_void_p))[0]
        _check(advapi32.ConvertSidToStringSidW(ctypes.c_void_p(identifier), ctypes.byref(text)))
        return _taken(text)
    finally:
        kernel32.CloseHandle(token)


def _taken(text: ctypes.c_void_p) -> str:
    """A string that Windows allocated, which is freed."""
    try:
        return ctypes.wstring_at(text.value or 0)
    finally:
        _libraries()[1].LocalFree(text)


# Attributes that exist on Windows alone are asked for by name, so that type checkers elsewhere know nothing of them.


@cache
def _libraries() -> tuple[Any, Any]:
    load: Any = getattr(ctypes, "WinDLL")  # noqa: B009
    return load("advapi32", use_last_error=True), load("kernel32", use_last_error=True)


def _handle(file: int) -> int:
    import msvcrt

    get: Any = getattr(msvcrt, "get_osfhandle")  # noqa: B009
    return int(get(file))


def _check(worked: int) -> None:
    if not worked:
        raise _last_error()


def _last_error() -> Any:
    make: Any = getattr(ctypes, "WinError")  # noqa: B009
    code: Any = getattr(ctypes, "get_last_error")  # noqa: B009
    error = make(code())
    assert isinstance(error, OSError)
    return error
