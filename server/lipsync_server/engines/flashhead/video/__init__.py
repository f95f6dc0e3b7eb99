"""Turns one face into frames: the crop, the windows, and the way back into the picture."""
