"""Timesteps, noise, windows and the colours that are carried from window to window."""
