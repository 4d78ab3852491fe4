"""What the speed report says: its figures, its words and its picture."""
