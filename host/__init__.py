"""Everything else that this pack asks of ComfyUI."""
