"""What the node's ``effort`` means to Inductor, per type of device.

=========  ======  =======================================================================================
effort     device  settings (names of torch._inductor.config)
=========  ======  =======================================================================================
fast start  all    Inductor's own; no CUDA graphs, because blocks hand tensors on to each other
max speed   cuda   ``max_autotune``: each matrix product is timed here as cuBLAS and as Triton kernels
                   ``coordinate_descent_tuning``: so are the tilings of the other kernels
max speed   cpu    as fast start, see below
=========  ======  =======================================================================================

Both settings time variants of a kernel on the user's own machine and keep the fastest, so that each is kept only where
it helps; the whole is held against uncompiled steps as ever. What was left out, and why:

- ``freezing`` copies weights into the graph: they would be there twice, and a LoRA would compile anew.
- ``max_autotune`` on a CPU: without frozen weights it may choose only between two calls of the same library
  (``addmm``, ``bias_addmm``).
- ``coordinate_descent_tuning`` on a CPU: it concerns Triton's kernels, and the code is the same.
- Weights in channels-last order: not tried; a LoRA's weights come in plain order, and a graph holds for one order.
"""

from __future__ import annotations

from typing import Any

MAX_SPEED: dict[str, dict[str, Any]] = {"cuda": {"max_autotune": True, "coordinate_descent_tuning": True}}

#: How each setting of ``MAX_SPEED`` is told to people.
WORDS = {
    "max_autotune": "matrix products are timed in several variants",
    "coordinate_descent_tuning": "tilings of the other kernels are timed",
}


def inductor_config(effort: str, device: str) -> dict[str, Any]:
    """Inductor's settings. ``device`` is a type such as "cuda"."""
    return dict(MAX_SPEED.get(device, {})) if effort == "max speed" else {}


def effort_note(effort: str, device: str) -> str | None:
    """What was done for ``max speed``, for people; None with ``fast start``."""
    if effort != "max speed":
        return None
    config = inductor_config(effort, device)
    if not config:
        return f"Max speed does nothing more on a {device} device: compiled as with fast start."
    return f"Max speed: {', '.join(WORDS[name] for name in config)}, and the fastest are kept."
