"""Where processors that are not built in come from."""
