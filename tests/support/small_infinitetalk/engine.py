"""The product's engine with a table of one size."""

from lipsync_server.engines.infinitetalk.engine import create
from lipsync_server.engines.infinitetalk.video.sizes import BUCKETS

__all__ = ["create"]

BUCKETS["480p"] = {0.33: (64, 192)}
