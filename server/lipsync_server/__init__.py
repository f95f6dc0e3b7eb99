"""Lipsync: a picture and a voice recording in, an MP4 of that person saying it out."""

__version__ = "0.1.0"
