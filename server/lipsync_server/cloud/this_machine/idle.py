"""Stops this machine when it has been idle for a set time, so that a forgotten rented machine stops costing money.

`IdleWatch` decides when: it has a clock, a function that reports whether the machine is busy, and a function that stops
the machine. `make_stop` finds the way to stop this machine: Vast.ai and RunPod pass every container an API key that is
valid for this one machine; elsewhere the user sets a command. Both functions run with a time limit, so that a stuck
volume under the database or a command that never returns cannot keep the machine running. Does not know HTTP handlers,
jobs or engines.
"""

import asyncio
import logging
import os
import signal
import time
from collections.abc import Awaitable, Callable, Mapping

import aiohttp

from lipsync_server.cloud.providers.api import Api, ProviderError
from lipsync_server.cloud.providers.runpod import RUNPOD_URL
from lipsync_server.cloud.providers.vast import VAST_URL
from lipsync_server.errors import InvalidInput
from lipsync_server.settings import Settings

log = logging.getLogger(__name__)

Stop = Callable[[], Awaitable[None]]

_POLL_INTERVAL_S = 10.0
_WARN_AT_S = (300.0, 60.0)
_TRY_AGAIN_S = 60.0
_ANSWER_S = 30.0
_STOP_S = 300.0


class IdleWatch:
    """Counts down while the machine is not busy.

    busy: whether a job is queued or running, an upload or a download is in progress, or a video is not collected yet.
    clock: monotonic, in seconds. answer_s, stop_s: time limits of `busy` and `stop`.
    """

    def __init__(
        self,
        *,
        idle_s: float,
        busy: Callable[[], Awaitable[bool]],
        stop: Stop,
        clock: Callable[[], float] = time.monotonic,
        answer_s: float = _ANSWER_S,
        stop_s: float = _STOP_S,
    ) -> None:
        self._answer_s, self._stop_s = answer_s, stop_s
        self._idle_s, self._busy, self._stop, self._clock = idle_s, busy, stop, clock
        self._since = clock()
        self._is_busy = True
        self._warned = 0
        self._not_before = 0.0
        self._kept_until = self._since

    def left_s(self) -> float | None:
        """Seconds until the machine stops; None while it is busy."""
        return None if self._is_busy else max(0.0, self._end() - self._clock())

    def kept_s(self) -> float:
        """Seconds for which `keep` still holds the machine; 0 when nobody keeps it."""
        return max(0.0, self._kept_until - self._clock())

    def keep(self, for_s: float) -> None:
        """Let the machine run for at least `for_s` seconds from now, idle or not. 0 ends an earlier keep."""
        now = self._clock()
        self._kept_until, self._since, self._warned = now + for_s, now, 0

    def _end(self) -> float:
        """The time on `clock` at which the machine stops."""
        return max(self._since + self._idle_s, self._kept_until)

    async def check(self) -> bool:
        """Check once, and stop the machine when the countdown has ended. Returns whether the machine was stopped."""
        self._is_busy = await self._ask()
        now = self._clock()
        if self._is_busy:
            self._since, self._warned = now, 0
            return False
        left_s = self._end() - now
        if left_s > 0:
            self._warn(left_s)
            return False
        if now < self._not_before:
            return False
        self._not_before = now + _TRY_AGAIN_S
        log.warning("this machine has been idle for %.0f minutes and stops itself now", self._idle_s / 60)
        try:
            async with asyncio.timeout(self._stop_s):
                await self._stop()
        except TimeoutError:
            log.error("stopping this machine took longer than %.0f s; trying again", self._stop_s)
            return False
        except Exception as error:  # the user's command or a provider's API may raise any error; the next check retries
            log.error("this machine could not be stopped and still costs money: %s", error)
            return False
        return True

    async def run(self) -> None:
        """Check every ten seconds until the task is cancelled."""
        while True:
            try:
                await self.check()
            except Exception:  # any error of `busy`; if this task ended, the machine would never stop
                log.exception("the check of the idle stop failed; trying again")
            await asyncio.sleep(_POLL_INTERVAL_S)

    async def _ask(self) -> bool:
        """Whether the machine is busy. No answer in time counts as idle: with a database that hangs, no job can end."""
        try:
            async with asyncio.timeout(self._answer_s):
                return await self._busy()
        except TimeoutError:
            log.error("the job store does not answer; the machine counts as idle until it does")
            return False

    def _warn(self, left_s: float) -> None:
        while self._warned < len(_WARN_AT_S) and left_s <= _WARN_AT_S[self._warned]:
            self._warned += 1
            log.warning("this machine stops itself in %.1f minutes unless a job comes", left_s / 60)


def make_stop(
    settings: Settings,
    environment: Mapping[str, str],
    *,
    vast_url: str = VAST_URL,
    runpod_url: str = RUNPOD_URL,
    pauses_s: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0),
) -> Stop:
    """Return the function that stops this machine: the user's command, else the API of the provider in the environment.

    Raises InvalidInput when there is neither, because a machine that cannot stop itself costs money.
    """
    if command := settings.idle_stop_command:
        return lambda: _run(command)
    vast_id, vast_key = environment.get("CONTAINER_ID"), environment.get("CONTAINER_API_KEY")
    if vast_id and vast_key:

        async def stop_vast() -> None:
            async with aiohttp.ClientSession() as session:
                api = Api("Vast.ai", vast_url, vast_key, "CONTAINER_API_KEY", session, pauses_s)
                await api.call("PUT", f"/instances/{vast_id}/", body={"state": "stopped"})

        return stop_vast
    pod_id, pod_key = environment.get("RUNPOD_POD_ID"), environment.get("RUNPOD_API_KEY")
    if pod_id and pod_key:

        async def stop_runpod() -> None:
            async with aiohttp.ClientSession() as session:
                api = Api("RunPod", runpod_url, pod_key, "RUNPOD_API_KEY", session, pauses_s)
                await api.call("POST", f"/pods/{pod_id}/action", body={"action": "stop"})

        return stop_runpod
    raise InvalidInput(
        "LIPSYNC_IDLE_STOP is set, but this is neither a Vast.ai container nor a RunPod pod, so the server does not "
        "know how to stop its machine. Set LIPSYNC_IDLE_STOP_COMMAND, for example to `sudo poweroff` where a machine "
        "that is off costs nothing.",
        field="idle_stop",
    )


async def _run(command: str) -> None:
    """Run the user's command in a shell. Raises ProviderError if it fails."""
    process = await asyncio.create_subprocess_shell(
        command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        output, _ = await process.communicate()
    except asyncio.CancelledError:
        os.killpg(process.pid, signal.SIGKILL)
        await process.communicate()
        raise
    if process.returncode:
        end = output.decode(errors="replace").strip()[-300:]
        raise ProviderError(f"LIPSYNC_IDLE_STOP_COMMAND ended with status {process.returncode}: {end or 'no message'}")
