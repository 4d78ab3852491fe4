"""The type of a loaded processor, which one node gives and others take."""

from __future__ import annotations

from comfy_api.latest import io

ProcessorType = io.Custom("ONEDIFF_PROCESSOR")
