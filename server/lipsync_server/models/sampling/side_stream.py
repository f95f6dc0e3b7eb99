"""A second CUDA stream: what the next window needs is made there while the GPU is busy with this one.

The main stream is the one that is current outside. Both read and change what they share in turns: the side begins
behind the main stream's last turn, and the next one begins behind all of the side's work. The host waits for neither.
One object serves a process, for torch keeps memory for every stream that was ever used. Without CUDA everything is done
at once, in the order of the program. Knows no models and no windows.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


class SideStream:
    """See the module."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._side: torch.cuda.Stream | None = None
        self._last_turn: torch.cuda.Event | None = None

    @contextmanager
    def main_turn(self) -> Iterator[None]:
        """Work of the main stream with what the side uses, too."""
        if self._device.type != "cuda":
            yield
            return
        main = torch.cuda.current_stream(self._device)
        if self._side is not None:
            main.wait_stream(self._side)
        yield
        self._last_turn = main.record_event()

    @contextmanager
    def beside(self) -> Iterator[None]:
        """Work for the side stream, which goes on behind the main stream's last turn.

        Values that stay on the side are safe: their memory is used again there only, behind that turn. What the main
        stream reads outside of its turns is to be handed over.
        """
        if self._device.type != "cuda":
            yield
            return
        if self._side is None:
            # Its kernels go first: there is little of it, and the host waits when it copies something to the GPU.
            self._side = torch.cuda.Stream(self._device, priority=-1)
        if self._last_turn is None:
            self._side.wait_stream(torch.cuda.current_stream(self._device))
        else:
            self._side.wait_event(self._last_turn)
        with torch.cuda.stream(self._side):
            yield

    def hand_over(self, values: Iterable[Tensor]) -> None:
        """Let the main stream read these outside of its turns, too."""
        if self._side is not None:
            main = torch.cuda.current_stream(self._device)
            for value in values:
                value.record_stream(main)
