"""Rented machines: finding one, starting it, stopping it, what it costs."""
