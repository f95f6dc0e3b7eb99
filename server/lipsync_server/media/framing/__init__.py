"""The shape and the sound of the finished video: aspect ratio, height, silence before the speech, loudness, stills."""
