"""Which backend compiles here, and how that is known."""
