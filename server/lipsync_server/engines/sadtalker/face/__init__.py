"""Crops the face, computes its 3-D coefficients, and puts rendered faces back into the picture."""
