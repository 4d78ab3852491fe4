"""One block while its model samples: its variants, their first runs, and other nodes' code in them."""
