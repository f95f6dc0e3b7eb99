"""From one face to frames: crop, windows, and the way back into the picture."""
