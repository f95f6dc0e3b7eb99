"""From model files to networks."""
