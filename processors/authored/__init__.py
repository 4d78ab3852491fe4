"""Processors that people wrote, called as they are written."""
