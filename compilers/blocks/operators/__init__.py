"""Code of other nodes inside a compiled block, as an operator that the graph cannot look into."""
