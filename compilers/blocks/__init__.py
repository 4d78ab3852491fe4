"""What a block is, and what may enter its compiled code."""
