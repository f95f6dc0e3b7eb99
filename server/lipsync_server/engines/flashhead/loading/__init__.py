"""Load the published files into models on a device. Use models.py."""
