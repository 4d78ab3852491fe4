"""``host/…``: ComfyUI's own attention functions, by the names under which they are registered there."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from ...memo import cached
from ..contract import KernelCall
from .kernel import Kernel, additive

PREFIX = "host/"

#: Registered only where their package is, and the pack has them itself: ComfyUI's fall back to others in silence.
_OURS = frozenset({"sage", "sage3", "flash", "xformers"})

#: Those that take a bool mask for numbers.
_NO_BOOL_MASKS = frozenset({"split", "sub_quad"})

#: Those that compute attention as it is. Of others nobody knows.
_EXACT = frozenset({"pytorch", "split", "sub_quad"})


class HostsKernel(Kernel):
    """One of ComfyUI's functions. ``_inside_attn_wrapper`` tells it that it is the override that asks."""

    as_operator = True
    hosts: Callable[..., torch.Tensor]
    takes_bool_masks: bool

    def compute(self, call: KernelCall) -> torch.Tensor:
        mask = call.mask
        more: dict[str, bool | float] = {"enable_gqa": True} if call.enable_gqa else {}
        if mask is not None and mask.dtype == torch.bool and not self.takes_bool_masks:
            mask = additive(mask, call.q.dtype)
        if call.scale is not None:
            more["scale"] = call.scale
        return type(self).hosts(
            call.q,
            call.k,
            call.v,
            call.heads,
            mask=mask,
            skip_reshape=call.skip_reshape,
            skip_output_reshape=call.skip_output_reshape,
            _inside_attn_wrapper=True,
            **more,
        )


def hosts_names(registered: Mapping[str, Callable]) -> list[str]:
    """The names that are offered, of the functions that ComfyUI knows."""
    return [f"{PREFIX}{name}" for name in registered if name not in _OURS]


def hosts_kernel(name: str, registered: Mapping[str, Callable]) -> HostsKernel | None:
    """The processor of a name in `hosts_names`; None for others. One a function, so that compiled graphs are shared."""
    if name not in hosts_names(registered):
        return None
    return _made(name.removeprefix(PREFIX), registered[name.removeprefix(PREFIX)])


@cached
def _made(name: str, function: Callable) -> HostsKernel:
    fields = {
        "__qualname__": f"HostsKernel {name}",
        "__module__": HostsKernel.__module__,
        "hosts": staticmethod(function),
        "takes_bool_masks": name not in _NO_BOOL_MASKS,
        "approximate": name not in _EXACT,
    }
    return type(f"HostsKernel {name}", (HostsKernel,), fields)().eval()
