"""Find out the kind of a file and whether it is complete, and read it with FFmpeg under fixed limits."""
