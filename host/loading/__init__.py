"""Files with processors: which there are, loading one, and putting it on a model."""
