"""The two commands (demo.py, test.py) and what they share. Nothing here is imported by ComfyUI."""

import sys

OLDEST, NEWEST = (3, 10), (3, 13)

# Here, because no other file gets this far on an old Python.
if not OLDEST <= sys.version_info[:2] <= NEWEST:
    sys.exit(
        "Stopped: this is Python %d.%d, and ComfyUI with OneDiff needs 3.%d to 3.%d; run the same command with one of "  # noqa: UP031
        "those, for example python3.12." % (*sys.version_info[:2], OLDEST[1], NEWEST[1])
    )
