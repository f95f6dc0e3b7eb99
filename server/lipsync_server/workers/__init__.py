"""Who runs an engine: a child process here, or actors in a Ray cluster."""
