"""How a MODEL is changed and changed back, and what others have put on it."""
