"""Which kernel computes attention at each site: measured on the model's own q, k and v, and remembered."""
