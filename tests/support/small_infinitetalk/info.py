"""The product's description of the engine."""

from lipsync_server.engines.infinitetalk.info import describe

__all__ = ["describe"]
