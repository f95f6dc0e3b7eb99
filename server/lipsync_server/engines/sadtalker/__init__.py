"""SadTalker: one picture and a voice through 3DMM coefficients and a keypoint-driven face renderer, on a 6 GB GPU."""
