"""Whether something works on this machine: tried in a process of its own where it may crash, and kept on disk."""
