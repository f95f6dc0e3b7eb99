"""Model weights: the list of files, their download and their verification."""
