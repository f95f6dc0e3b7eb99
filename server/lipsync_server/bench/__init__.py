"""Measure everything below; nothing but the command line imports this package."""
