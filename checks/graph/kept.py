"""Puts everything that a trial call may change back as it was."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ...patching.inside import modules_in
from ...processors.random_numbers import numbers_kept

#: Larger tensors are told apart by identity and version alone, and are not put back.
SMALL = 1 << 20

_CONTAINERS = (list, dict, set, deque)


@contextmanager
def kept(module: nn.Module, variables: Mapping[str, dict[str, Any]], device: torch.device) -> Iterator[None]:
    """Attributes and buffers of a module and of those inside it, global variables, and the random numbers of torch,
    Python and NumPy are the same after this as before, also after an error.

    Args:
        variables: names of global variables with the namespace that holds each.
    """
    attributes = [(part.__dict__, dict(part.__dict__)) for _, part in modules_in(module)]
    held = [value for _, values in attributes for value in values.values()]
    held += [names[name] for name, names in variables.items()]
    inside = [(value, value.copy()) for value in held if isinstance(value, _CONTAINERS)]
    buffers = [(b, b.clone()) for b in module.buffers() if b.numel() <= SMALL and b.device.type != "meta"]
    versions = [(b, b._version) for b, _ in buffers if not b.is_inference()]
    values = [(names, name, names[name]) for name, names in variables.items()]
    try:
        with numbers_kept(device):
            yield
    finally:
        for names, name, value in values:
            names[name] = value
        for buffer, content in buffers:
            with torch.inference_mode():
                if not torch.equal(buffer, content):
                    buffer.copy_(content)
        for buffer, version in versions:  # put back means no new version: results of checks are found again by it
            torch._C._autograd._unsafe_set_version_counter((buffer,), (version,))
        for now, before in attributes:
            if now.keys() != before.keys() or any(now[name] is not before[name] for name in before):
                now.clear()
                now.update(before)
        for container, filled in inside:
            _refill(container, filled)


def _refill(container: Any, content: Any) -> None:
    """Gives a container its content back where it lost it; it stays the same object."""
    if len(container) == len(content) and all(a is b for a, b in zip(container, content, strict=True)):
        values = zip(container.values(), content.values(), strict=True) if isinstance(container, dict) else ()
        if all(a is b for a, b in values):
            return
    container.clear()
    container.extend(content) if isinstance(container, list | deque) else container.update(content)


def print_of(value: Any, depth: int = 2) -> Any:
    """Something that is equal for equal states of a value."""
    if isinstance(value, torch.Tensor):
        if value.numel() <= 64 and value.device.type != "meta":
            return tuple(value.shape), str(value.tolist())
        return id(value), None if value.is_inference() else value._version
    if isinstance(value, bool | int | float | str | bytes | None):
        return type(value), value
    if isinstance(value, dict) and depth:
        return len(value), [(print_of(k, 0), print_of(v, depth - 1)) for k, v in list(value.items())[:64]]
    if isinstance(value, list | tuple | deque) and depth:
        return len(value), [print_of(v, depth - 1) for v in list(value)[:64]]
    if isinstance(value, set):
        return len(value)
    return id(value)


_OWN = frozenset(nn.Module().__dict__) - {"_buffers", "_parameters"}


def state_of(modules: list[nn.Module], variables: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """What modules and global variables hold now, by attribute or name."""
    state: dict[str, Any] = {name: print_of(names[name]) for name, names in variables.items()}
    for number, module in enumerate(modules):
        for name, value in module.__dict__.items():
            if name in ("_buffers", "_parameters"):
                state.update({f"{number}.{key}": print_of(tensor) for key, tensor in value.items()})
            elif name not in _OWN:
                state[f"{number}.{name}"] = print_of(value)
    return state
