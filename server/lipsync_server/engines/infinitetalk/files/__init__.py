"""Which model files are here, and which of them a job uses. Imports no torch."""
