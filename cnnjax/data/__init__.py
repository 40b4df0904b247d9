"""Where examples come from: sources, splits, batches, streaming, caches."""
