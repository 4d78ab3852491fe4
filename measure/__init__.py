"""Times: of one call, of pairs of steps, of all steps of a model."""
