"""`lipsync serve`: binds the ports, prints the addresses, stops cleanly on SIGTERM and SIGINT.

Knows processes and sockets. app.py decides which routes are served.
"""

import asyncio
import contextlib
import functools
import logging
import os
import signal
from collections.abc import Coroutine, Iterable, Iterator
from pathlib import Path

from aiohttp import web
from pydantic import SecretStr

from lipsync_server.cloud.this_machine.address import PublicAddress, price_from_provider, public_address
from lipsync_server.cloud.this_machine.tunnel import Tunnel
from lipsync_server.daemon_threads import in_daemon_thread
from lipsync_server.doctor.checks import examine
from lipsync_server.engines.registry import ENGINES, Registry
from lipsync_server.errors import LipsyncError
from lipsync_server.http import keys
from lipsync_server.http.app import create_app, create_health_app
from lipsync_server.http.callers.auth import first_token, needs_token
from lipsync_server.http.callers.connections import Connections, listen, most_connections, raise_file_limit
from lipsync_server.http.logs import set_up_logging
from lipsync_server.http.stop_limit import TIDY_UP_S, end_process_after
from lipsync_server.settings import Settings

log = logging.getLogger(__name__)

# Handlers end when the queue is closed; this time is for downloads that are still being sent.
_DRAIN_S = 10.0
VOLUME_S = 30.0
"""A disk that spins up, or a network volume after a pause, answers within seconds."""


def serve(settings: Settings, registry: Registry = ENGINES, *, notes: Iterable[str] = ()) -> None:
    """Serve until a signal comes. Raises LipsyncError when the server cannot start.

    notes: warnings about the settings, written to the log.
    """
    set_up_logging(settings.log_level, settings.log_format)
    for note in notes:
        log.warning("%s", note)
    asyncio.run(check_volumes(settings))
    with _files_in_sentences(settings.data_dir):
        asyncio.run(_serve(with_token(settings), registry))


@contextlib.contextmanager
def _files_in_sentences(data_dir: Path) -> Iterator[None]:
    """Raise LipsyncError with the remedy in place of an error about a file that the start meets in the data folder."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            raise
        raise LipsyncError(
            f"The server cannot use {error.filename}: {error.strerror}. It runs as user {os.geteuid()}, to whom the "
            f"data folder and all that is in it have to belong. Run `chown -R {os.geteuid()} {data_dir}` as root, or "
            "set LIPSYNC_DATA_DIR to another folder."
        ) from error


async def check_volumes(settings: Settings) -> None:
    """Raise LipsyncError when a folder's volume does not answer: the server would wait for it without a word."""
    for variable, folder in (("LIPSYNC_DATA_DIR", settings.data_dir), ("LIPSYNC_WEIGHTS_DIR", settings.weights_dir)):
        try:
            async with asyncio.timeout(VOLUME_S):
                await in_daemon_thread(functools.partial(_look_into, folder))
        except TimeoutError:
            raise LipsyncError(
                f"{folder} ({variable}) has not answered for {VOLUME_S:.0f} s: its volume is stuck, as a network disk "
                "whose server is away. Mount it again, or set the variable to another folder."
            ) from None


def _look_into(folder: Path) -> None:
    """Read an entry of the folder, which waits if the volume is stuck. Other errors are reported where it is used."""
    with contextlib.suppress(OSError):
        next(folder.iterdir(), None)


def with_token(settings: Settings) -> Settings:
    """The settings with a token added where other machines can reach the server; a new token is printed once."""
    if settings.tokens or not needs_token(settings):
        return settings
    token, made = first_token(settings.data_dir)
    where = settings.data_dir / "token"
    if made:
        print(f"No token was set, so one was made and kept in {where}:\n\n    {token}\n", flush=True)  # noqa: T201 - not for a log
    else:
        log.info("the token is the one in %s", where)
    return settings.model_copy(update={"tokens": [SecretStr(token)]})


async def _serve(settings: Settings, registry: Registry) -> None:
    """Start the application, listen until SIGTERM or SIGINT, then stop in order."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def begin_to_stop() -> None:
        if not stop.is_set():
            stop.set()
            end_process_after(settings.shutdown_grace_s + TIDY_UP_S)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, begin_to_stop)
    settings = await _with_price(settings)
    app = create_app(settings, registry=registry)
    tunnel: asyncio.Task[None] | None = None
    checking = asyncio.create_task(log_problems(settings, registry), name="doctor")
    n_connections = most_connections(raise_file_limit())
    runners = [(web.AppRunner(app, access_log=None, shutdown_timeout=_DRAIN_S), settings.port, "listening")]
    if settings.port_health is not None:
        small = web.AppRunner(create_health_app(app), access_log=None, shutdown_timeout=1.0)
        runners.append((small, settings.port_health, "health checks"))
    listeners: list[asyncio.Server] = []
    try:
        for runner, port, purpose in runners:
            if not await _unless_stopped(runner.setup(), stop):
                return
            listeners.append(await listen(runner, settings.host, port, Connections(most=n_connections)))
            log.info("%s on %s", purpose, _url(settings.host, listeners[-1]))
        tunnel = _announce(settings, app[keys.ADDRESS], listeners[0])
        await stop.wait()
        log.info("stopping")
    finally:
        tasks = [checking] if tunnel is None else [checking, tunnel]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for listener in listeners:
            listener.close()
        for runner, _, _ in runners:
            await runner.cleanup()


async def _unless_stopped(starting: Coroutine[None, None, None], stop: asyncio.Event) -> bool:
    """Wait for `starting`. When `stop` is set first, cancel it and return False: a start may wait for a disk."""
    tasks = [asyncio.create_task(starting), asyncio.create_task(stop.wait())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if stop.is_set():
            log.info("stopping before the start is complete")
            return False
        await tasks[0]
        return True
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def log_problems(settings: Settings, registry: Registry) -> None:
    """Log one line for each problem that `lipsync doctor` finds here, while the server starts.

    With Ray the workers are on other machines, so this one need not be able to render.
    """
    if settings.executor != "process":
        return
    report = await in_daemon_thread(lambda: examine(settings, registry=registry, ports=False))
    for finding in report.problems:
        log.warning("%s", finding.line)


async def _with_price(settings: Settings) -> Settings:
    """The settings with this machine's price per hour from its provider, unless the user has set a price."""
    if settings.price_per_hour is not None or settings.currency != "USD":
        return settings
    price = await price_from_provider(os.environ)
    if price is not None:
        log.info("this machine costs %.3f USD an hour", price)
    return settings.model_copy(update={"price_per_hour": price})


def _announce(settings: Settings, address: PublicAddress, listener: asyncio.Server) -> asyncio.Task[None] | None:
    """Log the address under which others reach the server; returns the tunnel's task, or None without a tunnel."""
    if settings.tunnel:
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104 - compared, not bound
        return asyncio.create_task(Tunnel(settings.tunnel, _url(host, listener), address.announce).run(), name="tunnel")
    if url := address.url or public_address(_port(listener), os.environ):
        address.announce(url)
    return None


def _port(listener: asyncio.Server) -> int:
    return int(listener.sockets[0].getsockname()[1])


def _url(host: str, listener: asyncio.Server) -> str:
    port = _port(listener)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
