"""What a session measures and remembers."""
