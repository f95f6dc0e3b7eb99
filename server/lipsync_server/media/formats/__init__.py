"""Which kind of file is it, is it whole, and the one way in which FFmpeg reads it."""
