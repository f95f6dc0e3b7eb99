"""Receives the small JSON object of a request that has no files, with limits on its size and its time.

Knows aiohttp's request. Does not know which fields the object has.
"""

import asyncio

from aiohttp import web
from aiohttp.http import HttpProcessingError

from lipsync_server.errors import BadRequest, TooLarge, UnsupportedMedia
from lipsync_server.http.inputs.json_body import parse_object
from lipsync_server.http.inputs.uploads import send_continue

_MAX_BYTES = 64 * 1024
_WITHIN_S = 30.0


async def small_object(request: web.Request) -> dict[str, object]:
    """The JSON object in the body of a request that has no files. Raises a LipsyncError that names the fault."""
    if request.content_type != "application/json":
        raise UnsupportedMedia(f"The body is {request.content_type}. Send a JSON object as application/json.")
    await send_continue(request)
    body = bytearray()
    try:
        async with asyncio.timeout(_WITHIN_S):
            async for chunk in request.content.iter_any():
                body += chunk
                if len(body) > _MAX_BYTES:
                    raise TooLarge(f"The body is longer than {_MAX_BYTES // 1024} KiB.")
    except TimeoutError as error:
        raise BadRequest(f"The body did not arrive within {_WITHIN_S:.0f} s. Send it again.") from error
    except (web.RequestPayloadError, HttpProcessingError, ValueError) as error:
        raise BadRequest("The body broke off or is malformed. Send it again.") from error
    return parse_object(bytes(body))
