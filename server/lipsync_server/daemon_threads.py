"""Run a blocking call that may never return, such as a read from a volume that has stopped answering.

asyncio.to_thread() has a few threads for all calls, and the server waits for them when it ends. A call that hangs there
occupies a thread for ever and keeps the process alive. Here each call has its own thread, and the process does not wait
for it at its end.
"""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")


async def in_daemon_thread(work: Callable[[], T]) -> T:
    """Return the result of `work`. When this wait is cancelled, the thread continues and its result is dropped."""
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
        except BaseException as caught:  # any error is raised again in the task that awaits the result
            error = caught
        with suppress(RuntimeError):  # the event loop may have ended; nobody waits for the result then
            loop.call_soon_threadsafe(settle, value, error)

    threading.Thread(target=run, name="may hang", daemon=True).start()
    return await result
