"""Model weights: what there is, fetching it, checking it."""
