"""A second CUDA stream, on which the next window is prepared while the GPU is busy with this one.

A CUDA stream is a queue of GPU work; the work of two streams may run at the same time. The main stream is the one that
is current outside of this class. Both streams use the same buffers (the VAE's, CLIP's weights), so they take turns:

    main_turn   main-stream work on the shared buffers; begins after all side work so far
    beside      side-stream work; begins after the main stream's last turn, not after its other work

    The CPU waits for neither. A process has one object of this class, because torch keeps memory for every stream that
    was ever used. Without CUDA all work runs at once, in the order of the program. Knows no models and no windows.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


class SideStream:
    """Turns of the main stream and of one side stream. The module's docstring has the rules."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._side: torch.cuda.Stream | None = None
        self._last_turn: torch.cuda.Event | None = None

    @contextmanager
    def main_turn(self) -> Iterator[None]:
        """Use this around main-stream code that touches buffers which the side stream also uses.

        The body's GPU work waits for the side stream first.
        """
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
        """Run the body's GPU work on the side stream, after the main stream's last turn.

        A tensor that only the side stream uses is safe, because torch reuses its memory on the side stream only. A
        tensor that the main stream reads outside of its turns needs `hand_over`.
        """
        if self._device.type != "cuda":
            yield
            return
        if self._side is None:
            # The side stream has priority: its work is short, and the host waits for its copies to the GPU.
            self._side = torch.cuda.Stream(self._device, priority=-1)
        if self._last_turn is None:
            self._side.wait_stream(torch.cuda.current_stream(self._device))
        else:
            self._side.wait_event(self._last_turn)
        with torch.cuda.stream(self._side):
            yield

    def hand_over(self, values: Iterable[Tensor]) -> None:
        """Let the main stream read these tensors outside of its turns.

        torch does not reuse their memory before that.
        """
        if self._side is not None:
            main = torch.cuda.current_stream(self._device)
            for value in values:
                value.record_stream(main)
