"""The caller's picture: a still or a short video becomes upright 8-bit sRGB."""
