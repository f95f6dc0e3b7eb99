"""From model files to loaded models that fit into memory."""
