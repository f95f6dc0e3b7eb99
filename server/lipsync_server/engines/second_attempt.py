"""Run a step of a job; if the GPU's memory runs out, free memory and run the step once more.

The memory of a job is planned before its model is loaded. Other programs on the card, and free memory in pieces too
small to use, can make that plan fail while the job runs. The engine then makes room in its own way (`Room.make`), and
the step begins again. Knows errors and the second attempt. Does not know the steps; each one sets its own start, such
as the state of its random numbers. No torch here.
"""

from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TypeVar

from lipsync_server.engines.base import Frames
from lipsync_server.engines.out_of_memory import gpu_out_of_memory
from lipsync_server.errors import OutOfMemory
from lipsync_server.gpu_errors import gpu_ran_out

T = TypeVar("T")


@dataclass(frozen=True)
class Room:
    """make: frees GPU memory for a second attempt; False where nothing can be freed.

    doing, remedies: of the sentence for a person, see `gpu_out_of_memory`.
    """

    make: Callable[[], bool]
    doing: str
    remedies: tuple[str, ...]


def with_room(step: Callable[[], T], room: Room) -> T:
    """Run `step`, and once more after `room.make` if GPU memory runs out. Raises OutOfMemory with advice."""
    try:
        return step()
    except RuntimeError as error:
        failure = _in_words(error, room)
    # Outside of the handler, whose traceback keeps the tensors of the failed attempt alive.
    with _second_attempt(room, failure):
        return step()


def frames_with_room(step: Callable[[int], Generator[Frames, None, T]], room: Room) -> Generator[Frames, None, T]:
    """`with_room` for a step that yields frames, uint8 RGB (n, H, W, 3), such as a window.

    step: called with the number of frames that a failed attempt has yielded already; the step must not yield these.
    """
    n_sent = 0
    try:
        with closing(step(0)) as frames:
            while True:
                try:
                    batch = next(frames)
                except StopIteration as end:
                    result: T = end.value
                    return result
                n_sent += len(batch)
                yield batch
    except RuntimeError as error:
        failure = _in_words(error, room)
    # Outside of the handler, for the same reason as in with_room.
    with _second_attempt(room, failure):
        return (yield from step(n_sent))


@contextmanager
def _second_attempt(room: Room, failure: OutOfMemory) -> Iterator[None]:
    """Make room, or raise `failure` of the first attempt; memory that runs out again is the end."""
    try:
        if not room.make():
            raise failure
        yield
    except RuntimeError as error:
        raise _in_words(error, room) from error


def _in_words(error: RuntimeError, room: Room) -> OutOfMemory:
    """The error for a person. Raises `error` itself when it is not about memory."""
    if not gpu_ran_out(error):
        raise error
    return gpu_out_of_memory(error, doing=room.doing, remedies=room.remedies)
