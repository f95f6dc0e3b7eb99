"""Which worker renders which job, and how each attempt ends."""
