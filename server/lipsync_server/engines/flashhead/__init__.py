"""FlashHead: a 1.5 B head-portrait model, twice as fast as real time, set back into the whole picture."""
