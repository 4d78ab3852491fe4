"""Calls a processor as the host would, on tensors without memory and on small real ones."""
