"""Find, crop and reconstruct the face, and set it back into the picture."""
