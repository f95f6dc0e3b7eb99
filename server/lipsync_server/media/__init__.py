"""Reads untrusted files into arrays, and writes frames and sound as MP4. Imports nothing of the package but errors."""
