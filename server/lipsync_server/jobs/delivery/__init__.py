"""Who gets the finished video: a folder or bucket of the owner, and the address for callbacks."""
