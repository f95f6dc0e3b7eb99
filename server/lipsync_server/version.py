"""The version of the server, of the command line and of the library. It is written in this module only."""

__version__ = "0.1.0"
