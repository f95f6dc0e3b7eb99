"""Turn speech into coefficients of expression and pose. Use coefficients.py."""
