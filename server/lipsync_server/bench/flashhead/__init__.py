"""FlashHead with random weights: the measured sections (command.py), and a job in a benchmark (rig.py)."""
