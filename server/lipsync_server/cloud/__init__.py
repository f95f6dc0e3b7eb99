"""Rented machines: finding, starting and stopping one, and its cost."""
