"""How one task is rendered: decode, generate, encode meanwhile, join with the sound."""
