"""The type of a loaded processor, which one node gives and others take, and how much it may count."""

from __future__ import annotations

from comfy_api.latest import io

ProcessorType = io.Custom("ONEDIFF_PROCESSOR")

#: What strengths and weights go to, either way.
MOST = 10.0
