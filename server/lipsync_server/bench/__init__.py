"""Benchmarks of engines and kernels. Only the command line imports this package."""
