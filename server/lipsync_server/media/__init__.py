"""Untrusted bytes to arrays, frames to MP4. Knows nobody else in the package but errors."""
