"""Rents a machine and waits until the server on it is ready.

Knows the adapters' protocol and the server's /readyz. Knows neither a provider's API nor the terminal.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import aiohttp

from lipsync_server import durations
from lipsync_server.cloud.machine import Machine, Provider
from lipsync_server.cloud.providers.api import PAUSES_S, Api, ProviderError
from lipsync_server.cloud.providers.runpod import RUNPOD_URL, RunPod
from lipsync_server.cloud.providers.tensordock import TENSORDOCK_URL, TensorDock
from lipsync_server.cloud.providers.vast import VAST_URL, Vast
from lipsync_server.errors import InvalidInput

_ALWAYS_SHOWN = ("card", "driver", "rendering")
_POLL_TIMEOUT = aiohttp.ClientTimeout(total=15)


@dataclass(frozen=True)
class Access:
    """One provider. stops_itself: whether a machine there has a key with which it can stop itself when it is idle."""

    title: str
    key_variable: str
    url: str
    adapter: Callable[[Api], Provider]
    stops_itself: bool = True


PROVIDERS = {
    "vast": Access("Vast.ai", "VAST_API_KEY", VAST_URL, Vast),
    "runpod": Access("RunPod", "RUNPOD_API_KEY", RUNPOD_URL, RunPod),
    "tensordock": Access("TensorDock", "TENSORDOCK_API_KEY", TENSORDOCK_URL, TensorDock, stops_itself=False),
}


def key_of(name: str, environment: Mapping[str, str] = os.environ) -> str:
    """The API key of provider `name` from the environment, "" when unset."""
    return environment.get(PROVIDERS[name].key_variable, "").strip()


@asynccontextmanager
async def provider(
    name: str,
    environment: Mapping[str, str] = os.environ,
    *,
    url: str | None = None,
    pauses_s: tuple[float, ...] = PAUSES_S,
) -> AsyncIterator[Provider]:
    """The adapter of provider `name` with its key from the environment. Raises InvalidInput when the key is unset."""
    if name not in PROVIDERS:
        raise InvalidInput(f"There is no provider {name!r}; there are: {', '.join(PROVIDERS)}.", field="provider")
    access, key = PROVIDERS[name], key_of(name, environment)
    if not key:
        raise InvalidInput(
            f"{access.title} needs your API key in the variable {access.key_variable}.", field=access.key_variable
        )
    async with aiohttp.ClientSession() as session:
        address = url or environment.get(f"LIPSYNC_{name.upper()}_URL") or access.url
        yield access.adapter(Api(access.title, address, key, access.key_variable, session, pauses_s))


@dataclass(frozen=True)
class Readiness:
    """A server's answer to /readyz.

    detail: also why there was no answer. waits: whether the machine waits for its wheel.
    """

    ready: bool
    detail: str
    failed: bool = False
    waits: bool = False


async def readiness(url: str) -> Readiness:
    """Request /readyz at `url`."""
    try:
        async with aiohttp.ClientSession(timeout=_POLL_TIMEOUT) as session, session.get(f"{url}/readyz") as response:
            answer = await response.json()
            return Readiness(
                bool(answer["ready"]), str(answer["detail"]), answer["stage"] == "failed", answer["stage"] == "waiting"
            )
    except (aiohttp.ClientError, TimeoutError, ValueError, KeyError, TypeError):
        return Readiness(False, "the server does not answer yet")


@dataclass(frozen=True)
class IdleState:
    """A server's answer to /v1/idle-stop. in_s: seconds until its machine stops; None while there is work."""

    enabled: bool
    after_minutes: float
    in_s: float | None


async def idle_stop_of(url: str, token: str) -> IdleState | None:
    """The idle stop of the machine at `url`; None if the server does not answer."""
    try:
        return await _idle_stop("GET", f"{url}/v1/idle-stop", token)
    except ProviderError:
        return None


async def keep_machine(url: str, token: str, minutes: float) -> float | None:
    """Keep the machine at `url` on for at least `minutes`. Returns the seconds until it stops, None while it is busy.

    Raises ProviderError if its server refuses or does not answer.
    """
    return (await _idle_stop("POST", f"{url}/v1/idle-stop/keep", token, {"minutes": minutes})).in_s


async def _idle_stop(method: str, url: str, token: str, body: dict[str, float] | None = None) -> IdleState:
    """One request to a server's idle stop. Raises ProviderError."""
    headers = {"Authorization": f"Bearer {token}"}
    try:
        async with (
            aiohttp.ClientSession(timeout=_POLL_TIMEOUT, headers=headers) as session,
            session.request(method, url, json=body, allow_redirects=False) as response,
        ):
            answer = await response.json()
            if response.status != 200:
                raise ProviderError(f"The server at {url} refused: {answer.get('detail', response.status)}")
            left_s = answer["in_s"]
            return IdleState(
                bool(answer["enabled"]), float(answer["after_minutes"]), None if left_s is None else float(left_s)
            )
    except (aiohttp.ClientError, TimeoutError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ProviderError(f"The server at {url} does not answer as a Lipsync server does: {error}") from error


async def doctor_lines(url: str, token: str) -> list[str]:
    """The findings of `lipsync doctor` on the machine at `url`, one line each; [] if it does not answer."""
    headers = {"Authorization": f"Bearer {token}"}
    try:
        async with (
            aiohttp.ClientSession(timeout=_POLL_TIMEOUT, headers=headers) as session,
            session.get(f"{url}/v1/doctor", allow_redirects=False) as response,
        ):
            findings = (await response.json())["findings"]
            return [
                " ".join(filter(None, (f"{each['state']:<8} {each['name']}: {each['detail']}", each["advice"])))
                for each in findings
                if each["state"] != "ok" or each["name"] in _ALWAYS_SHOWN
            ]
    except (aiohttp.ClientError, TimeoutError, ValueError, KeyError, TypeError):
        return []


async def wait_until_ready(
    rented: Provider,
    machine_id: str,
    *,
    start_limit_s: float,
    ready_limit_s: float,
    show: Callable[[str], None],
    send: Callable[[str], Awaitable[None]] | None = None,
    poll_interval_s: float = 5.0,
    clock: Callable[[], float] = time.monotonic,
) -> Machine:
    """Return the machine once its server is ready. Each poll reads the address again, because a restart changes it.

    start_limit_s: seconds that the provider may need to start the machine. ready_limit_s: seconds that the server may
    then need to download its model files and start. show: displays a sentence. send: uploads the wheel to a machine
    that waits for it. Raises ProviderError with a sentence on how to stop the machine, which still costs money.
    """
    began, running_since = clock(), None
    destroy = f"lipsync cloud destroy --provider {rented.name} {machine_id}"
    while True:
        machine = await rented.state(machine_id)
        detail = machine.detail
        if machine.state in ("failed", "gone", "stopped"):
            raise ProviderError(f"Machine {machine_id} is {machine.state}: {detail}. Remove it with: {destroy}")
        if machine.state == "running" and machine.url:
            running_since = clock() if running_since is None else running_since
            answer = await readiness(machine.url)
            if answer.ready:
                return replace(machine, detail=answer.detail)
            if answer.waits and send is not None:
                show("sending Lipsync to the machine")
                await send(machine.url)
                send = None
                continue
            if answer.failed:
                raise ProviderError(f"The server on machine {machine_id} cannot start: {answer.detail} Or: {destroy}")
            if clock() - running_since > ready_limit_s:
                raise ProviderError(
                    f"Machine {machine_id} runs for {durations.limit(ready_limit_s)} and its server is not ready: "
                    f"{answer.detail}. Look again with `lipsync cloud status`, or give it up: {destroy}"
                )
            detail = answer.detail
        elif clock() - began > start_limit_s:
            raise ProviderError(
                f"Machine {machine_id} has been starting for {durations.limit(start_limit_s)} ({detail}): its GPU may "
                f"be taken or its network slow. Give it up and take another offer: {destroy}"
            )
        show(f"{machine.state}: {detail}")
        await asyncio.sleep(poll_interval_s)
