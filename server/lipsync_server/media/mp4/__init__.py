"""The finished video: frames as H.264, the caller's sound as AAC, joined, marked as generated and signed."""
