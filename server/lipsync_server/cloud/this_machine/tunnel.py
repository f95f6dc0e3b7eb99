"""Runs cloudflared, which makes this server reachable, and reads the public address from cloudflared's output.

A quick tunnel gets a new random address at every start; a named tunnel, selected by a token, keeps its address. Knows
cloudflared's flags and output. Does not know HTTP handlers.
"""

import asyncio
import logging
import os
import re
import shutil
from collections.abc import Callable
from contextlib import suppress

from lipsync_server.errors import LipsyncError

log = logging.getLogger(__name__)

_QUICK = re.compile(r"https://(?!api\.)[a-z0-9-]+\.trycloudflare\.com")
_NAMED = re.compile(r'\\?"hostname\\?":\s*\\?"([A-Za-z0-9.-]+)\\?"')
_PAUSES_S = (1.0, 5.0, 15.0, 60.0)


class Tunnel:
    """One cloudflared process, restarted when it ends.

    kind: `quick` or a tunnel token. local_url: the target of a quick tunnel. announce: called with every new address.
    url: the public address, "" until it is known.
    """

    def __init__(
        self, kind: str, local_url: str, announce: Callable[[str], None], program: str = "cloudflared"
    ) -> None:
        found = shutil.which(program)
        if found is None:
            raise LipsyncError(
                f"LIPSYNC_TUNNEL needs the program {program}, which is not installed. Install it from Cloudflare's "
                "downloads, use the Docker image built with CLOUDFLARED=1, or unset LIPSYNC_TUNNEL."
            )
        self._program, self._kind, self._local_url, self._announce = found, kind, local_url, announce
        self.url = ""

    async def run(self) -> None:
        """Keep the tunnel open until the task is cancelled."""
        n_deaths = 0
        while True:
            known = await self._live()
            n_deaths = 0 if known else n_deaths + 1
            self.url = ""
            pause_s = _PAUSES_S[min(n_deaths, len(_PAUSES_S) - 1)]
            log.warning("cloudflared ended; it starts again in %.0f s", pause_s)
            await asyncio.sleep(pause_s)

    async def _live(self) -> bool:
        """Run cloudflared until it ends; returns whether it printed an address."""
        command = [self._program, "tunnel", "--no-autoupdate", "--metrics", "127.0.0.1:0"]
        environment = dict(os.environ)
        if self._kind == "quick":
            command += ["--url", self._local_url]
        else:
            # The token goes into the environment, because every user of the machine can read a command line.
            environment["TUNNEL_TOKEN"] = self._kind
            command += ["run"]
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=environment,
            limit=2**20,
        )
        try:
            assert process.stdout is not None
            async for raw in process.stdout:
                line = raw.decode(errors="replace").rstrip()
                log.debug("cloudflared: %s", line)
                if "ERR" in line:
                    log.warning("cloudflared: %s", line[:300])
                self._read(line)
            await process.wait()
        finally:
            with suppress(ProcessLookupError):
                process.terminate()
            with suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), 5)
            if process.returncode is None:
                process.kill()
                await process.wait()
        return bool(self.url)

    def _read(self, line: str) -> None:
        """Store and announce the public address if `line` contains a new one."""
        if self._kind == "quick":
            found = _QUICK.search(line)
            url = found[0] if found else ""
        else:
            found = _NAMED.search(line)
            url = f"https://{found[1]}" if found else ""
        if url and url != self.url:
            self.url = url
            self._announce(url)
