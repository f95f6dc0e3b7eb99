"""Wan 2.1's causal video VAE: vae.py is the entrance; ops.py and kernels.py compute the same, plainly and fused."""
