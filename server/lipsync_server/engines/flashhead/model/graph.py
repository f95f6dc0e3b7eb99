"""One forward of the model as a CUDA graph: recorded once, then started by one call.

A forward is about a thousand small kernels. With few tokens (variant lite: 1,280) the GPU computes a kernel faster than
the host can start the next: a forward of 8 ms took 27 ms. The same is true of a window's sound with both variants. A
CUDA graph is a recording of all kernel starts with the addresses of all tensors, so new inputs are copied to the
addresses of the recorded inputs. Knows CUDA; does not know the model's layers.
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
    """Calls `forward`, recorded at the first call of new shapes and replayed afterwards. Call it in inference mode."""

    def __init__(self, forward: Forward) -> None:
        self._forward = forward
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: list[Tensor] = []
        self._output: Tensor | None = None
        self._works = True

    def __call__(self, inputs: Sequence[Tensor]) -> Tensor:
        """The result of `forward(inputs)`, a new tensor. If a recording fails, that is logged once, and each later call
        runs `forward` itself."""
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
        """Record a forward of copies of `inputs`. Raises RuntimeError if an operation in it cannot be recorded."""
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
        # "thread_local": another thread may use the GPU meanwhile, and its work is no part of the recording.
        # After a failed recording torch leaves its own stream current; the outer context restores the caller's.
        with torch.cuda.stream(main), torch.cuda.graph(graph, capture_error_mode="thread_local"):
            output = self._forward(self._inputs)
        self._graph, self._output = graph, output


def _end_recording(device: torch.device) -> None:
    """Make CUDA's random number generator usable again after a failed recording.

    The failure leaves the generator marked as being recorded. A second, complete recording removes the mark.
    """
    with torch.cuda.graph(torch.cuda.CUDAGraph(), capture_error_mode="thread_local"):
        torch.zeros(1, device=device)
