"""Turns speech into coefficients of expression and pose. coefficients.py is the entrance."""
