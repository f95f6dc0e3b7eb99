"""Loads the published files into models on a device. models.py is the entrance."""
