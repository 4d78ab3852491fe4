"""torch.compile through OneDiff."""
