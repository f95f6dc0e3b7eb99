"""Engines turn a picture and speech into frames. They know no HTTP, no job and no database."""
