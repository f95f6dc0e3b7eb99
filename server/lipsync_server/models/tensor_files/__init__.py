"""Read, check and write safetensors files."""
