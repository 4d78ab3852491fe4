"""What compiles: one folder or file a backend, and what they share."""
