"""The render of one task: decode the inputs, generate frames, encode them meanwhile, and add the sound."""
