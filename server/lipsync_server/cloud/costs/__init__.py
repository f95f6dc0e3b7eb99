"""The cost of a video on a rented GPU: prices, speeds, bills."""
