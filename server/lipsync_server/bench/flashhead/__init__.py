"""FlashHead with random weights: what is measured (command.py), and how a job runs in a benchmark (rig.py)."""
