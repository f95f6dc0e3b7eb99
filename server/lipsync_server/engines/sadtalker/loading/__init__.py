"""Load model files into networks. Use model_files.py; official.py lists the tensors of the files."""
