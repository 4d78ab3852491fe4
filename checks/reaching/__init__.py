"""Which modules a model calls, found out by calling a copy without memory."""
