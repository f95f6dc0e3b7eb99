"""Wan 2.1's causal video VAE."""
