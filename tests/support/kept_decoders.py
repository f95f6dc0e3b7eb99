"""Decoder processes that all renders of a test process use. A render alone would start its own and end them."""

from functools import cache

from lipsync_server.media.sandbox.pool import DecoderPool


@cache
def kept_decoders() -> DecoderPool:
    """Decoders that end with this process, because their input ends then."""
    return DecoderPool(n_warm=1)
