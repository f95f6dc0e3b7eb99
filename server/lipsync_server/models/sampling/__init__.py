"""Timesteps, noise, windows, and colour correction from window to window."""
