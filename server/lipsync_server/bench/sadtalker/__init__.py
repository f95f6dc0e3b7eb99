"""SadTalker's benchmark."""
