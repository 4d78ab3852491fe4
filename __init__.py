"""OneDiff for ComfyUI: patch attention, check and compile a MODEL, and see on the canvas what it gained."""

from .nodes import comfy_entrypoint

WEB_DIRECTORY = "./web"

__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
