"""Layers that several transformers share."""
