"""Parts of a workflow that are called for themselves: a VAE, a ControlNet."""
