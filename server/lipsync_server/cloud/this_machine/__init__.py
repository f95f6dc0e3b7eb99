"""This machine's public address, its tunnel, and its stop when it is idle."""
