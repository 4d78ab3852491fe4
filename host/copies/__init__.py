"""Copies of VAEs and ControlNets whose calls go through a session; the originals stay as they are."""
