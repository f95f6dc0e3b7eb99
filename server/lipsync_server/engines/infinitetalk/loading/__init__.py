"""Load model files into models that fit into the device's memory. Use models.py."""
