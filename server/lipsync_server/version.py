"""The version of the server, of the command line and of the library: the one place that it is written in."""

__version__ = "0.1.0"
