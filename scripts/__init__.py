"""The two commands (demo.py, test.py) and what they share. Nothing here is imported by ComfyUI."""
