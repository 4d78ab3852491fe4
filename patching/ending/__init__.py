"""Ends code that people wrote: on Cancel, when its time is over, or when it does not return."""
