"""One adapter for each provider of rented GPUs, and the HTTP client that all of them use."""
