"""The caller's recordings: blocks of samples, the 16 kHz sound that models read, the mix of two people."""
