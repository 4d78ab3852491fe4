"""What `benchmarks/soak.py` is made of: workflows and their changes, the two servers, shrinking, two clients."""
