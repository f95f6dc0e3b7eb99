"""The InfiniteTalk transformer: its layers, blocks, and how it is spread over memory and GPUs."""
