"""Loads model files into networks. model_files.py is the entrance; official.py lists the tensors of the files."""
