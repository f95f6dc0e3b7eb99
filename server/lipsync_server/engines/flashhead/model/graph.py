"""One forward of the model as a CUDA graph: recorded once, then started by one call.

A forward is about a thousand small kernels. With few tokens (variant lite: 1,280) the GPU computes a kernel faster than
the host can start the next: a forward of 8 ms took 27 ms. A graph stores all starts with the addresses of all tensors,
so new inputs are copied to the addresses of the recorded inputs. Knows CUDA; does not know the model's layers.
"""

import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

log = logging.getLogger(__name__)

Forward = Callable[[Sequence[Tensor]], Tensor]
"""A function from tensors on the GPU to one tensor that starts the same kernels at each call with the same shapes."""
_WARM_UP = 2


class GraphedForward:
    """Calls `forward` as it is until the first call of new shapes is recorded; call it in inference mode."""

    def __init__(self, forward: Forward) -> None:
        self._forward = forward
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: list[Tensor] = []
        self._output: Tensor | None = None
        self._works = True

    def __call__(self, inputs: Sequence[Tensor]) -> Tensor:
        """The forward of `inputs`. A recording that fails is logged once, and calls go on without one."""
        if self._works and [x.shape for x in inputs] != [x.shape for x in self._inputs]:
            try:
                self._record(inputs)
            except RuntimeError as error:
                self._works, self._graph = False, None
                _end_recording(inputs[0].device)
                log.warning("FlashHead: no CUDA graph here, which is slower: %s", str(error).splitlines()[0])
        if self._graph is None or self._output is None:
            return self._forward(inputs)
        torch._foreach_copy_(self._inputs, list(inputs))
        self._graph.replay()
        return self._output.clone()

    def _record(self, inputs: Sequence[Tensor]) -> None:
        self._graph = self._output = None
        self._inputs = [x.clone() for x in inputs]
        side, main = torch.cuda.Stream(inputs[0].device), torch.cuda.current_stream(inputs[0].device)
        side.wait_stream(main)
        with torch.cuda.stream(side):
            # Plain runs first: they compile and choose kernels, and make tables. None of that may be part of the
            # recording.
            for _ in range(_WARM_UP):
                self._forward(self._inputs)
        main.wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # Another thread may use the GPU meanwhile; its work is no part of the recording.
        # torch leaves its own stream current where a recording fails; this context brings the caller's back.
        with torch.cuda.stream(main), torch.cuda.graph(graph, capture_error_mode="thread_local"):
            output = self._forward(self._inputs)
        self._graph, self._output = graph, output


def _end_recording(device: torch.device) -> None:
    """Let CUDA's random numbers be drawn again.

    A recording that fails leaves them marked as being recorded; the end of another recording takes the mark away.
    """
    with torch.cuda.graph(torch.cuda.CUDAGraph(), capture_error_mode="thread_local"):
        torch.zeros(1, device=device)
