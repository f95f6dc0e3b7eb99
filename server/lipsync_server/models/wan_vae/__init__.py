"""Wan 2.1's causal video VAE.

Use vae.py. ops.py and kernels.py compute the same: in plain torch, and in fused kernels.
"""
