"""Measure the line to the model hub: read the beginning of one weights file for a few seconds.

The measurement uses one connection; a download uses four and may be faster. Knows the hub's address. Stores nothing.
"""

import time

import aiohttp
from huggingface_hub import hf_hub_url
from huggingface_hub.utils._headers import build_hf_headers

from lipsync_server.errors import WeightsError
from lipsync_server.weights.download import hub_endpoint
from lipsync_server.weights.manifest import Manifest

MOST_BYTES = 64_000_000
MOST_S = 5.0
_CONNECT_S = 10.0


async def measure_mbps(manifest: Manifest, profile: str) -> float:
    """Speed of the line in Mbit/s, measured with the largest file of `profile`.

    Raises WeightsError if the hub does not answer.
    """
    file = max(manifest.profile_files(profile), key=lambda one: one.size_bytes)
    source = manifest.sources[file.source]
    url = hf_hub_url(source.repository, file.path, revision=source.revision, endpoint=hub_endpoint())
    headers = build_hf_headers() | {"Range": f"bytes=0-{MOST_BYTES - 1}"}
    timeout = aiohttp.ClientTimeout(total=_CONNECT_S + MOST_S, connect=_CONNECT_S, sock_read=_CONNECT_S)
    n_bytes = 0
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, trust_env=True) as session,
            session.get(url, headers=headers) as answer,
        ):
            answer.raise_for_status()
            began = time.monotonic()
            async for block in answer.content.iter_any():
                n_bytes += len(block)
                if n_bytes >= MOST_BYTES or time.monotonic() - began > MOST_S:
                    break
            duration_s = max(time.monotonic() - began, 1e-3)
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        reason = str(error) or type(error).__name__
        raise WeightsError(
            f"the model hub at {hub_endpoint() or 'https://huggingface.co'} cannot be read: {reason}. Check the "
            "network (and HF_ENDPOINT, if it is set), or state the line's speed with --mbps"
        ) from error
    return n_bytes * 8 / duration_s / 1e6
