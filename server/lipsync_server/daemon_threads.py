"""Runs a blocking call that may never return, such as one on a volume that stopped answering.

asyncio.to_thread() shares a few threads with everything else and waits for all of them when the server ends; a call
that hangs there takes a place for ever and keeps the process alive. Each call here has a thread of its own that the
process does not wait for.
"""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")


async def in_daemon_thread(work: Callable[[], T]) -> T:
    """The result of `work`. When this wait is cancelled, the thread goes on and its result is dropped."""
    loop = asyncio.get_running_loop()
    result: asyncio.Future[T] = loop.create_future()

    def settle(value: T | None, error: BaseException | None) -> None:
        if result.done():
            return
        if error is not None:
            result.set_exception(error)
        else:
            result.set_result(value)  # type: ignore[arg-type]  # without an error it is a T

    def run() -> None:
        value, error = None, None
        try:
            value = work()
        except BaseException as caught:  # raised again where the result is awaited
            error = caught
        with suppress(RuntimeError):  # the event loop may have ended; nobody waits for the result then
            loop.call_soon_threadsafe(settle, value, error)

    threading.Thread(target=run, name="may hang", daemon=True).start()
    return await result
