"""Turn one face into frames: crop the square, run the windows, and blend the square into the picture."""
