"""Models with random weights in the published file layouts, for tests and benchmarks."""
