"""The product's options of the engine."""

from lipsync_server.engines.infinitetalk.options import Options

__all__ = ["Options"]
