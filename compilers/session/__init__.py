"""One MODEL while it samples."""
