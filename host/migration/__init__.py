"""What the old nodes of OneDiff's own pack need of ComfyUI."""
