"""Checks of this machine: whether it can render, how soon, and what to change."""
