"""Signs links to one video that expire, and checks them: a link shows this video to people who have no token.

The signature is an HMAC (a digest that only the holder of a secret can make) of the job's id, the end of the link's
time and whether a download counts as collected. So none of the three can be changed. Knows the secret and a clock. Does
not know jobs.
"""

import hashlib
import hmac
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lipsync_server.errors import Forbidden

DEFAULT_LINK_S = 86_400
MAX_LINK_S = 604_800
_MAX_DIGITS = 12
_NEW_LINK = "Ask for a new one: GET /v1/jobs/ID/link."


@dataclass(frozen=True)
class VideoLinks:
    """Makes and checks the query of a link. wall: seconds since the epoch."""

    secret: bytes
    wall: Callable[[], float] = time.time

    def query(self, job_id: str, *, expires_in_s: int, collects: bool) -> tuple[dict[str, str], int]:
        """The signed query of a link to the job's video, and when the link expires, in seconds since the epoch."""
        expires = int(self.wall()) + expires_in_s
        query = {"expires": str(expires), **({"collects": "true"} if collects else {})}
        return {**query, "signature": self._signature(job_id, str(expires), collects)}, expires

    def check(self, job_id: str, query: Mapping[str, str]) -> bool:
        """Whether a download through the link counts as collected. Raises Forbidden for a link that is not valid."""
        expires, collects = query.get("expires", ""), query.get("collects") == "true"
        given = query.get("signature", "").encode("utf-8", "surrogateescape")
        if not hmac.compare_digest(given, self._signature(job_id, expires, collects).encode()):
            raise Forbidden(f"The link is not one of this server's, or was changed. {_NEW_LINK}")
        if len(expires) > _MAX_DIGITS or int(expires) <= self.wall():
            raise Forbidden(f"The link has expired. {_NEW_LINK}")
        return collects

    def _signature(self, job_id: str, expires: str, collects: bool) -> str:
        text = f"video\n{job_id}\n{expires}\n{'collects' if collects else ''}"
        return hmac.new(self.secret, text.encode("utf-8", "surrogateescape"), hashlib.sha256).hexdigest()
