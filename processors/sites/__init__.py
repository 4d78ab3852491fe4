"""Where a model computes attention, and which of these places a node means."""
