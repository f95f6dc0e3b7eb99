"""Loads model files into models that fit into the device's memory. models.py is the entrance."""
