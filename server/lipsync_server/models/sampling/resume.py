"""Where the loop over windows starts: with window 0, or behind the last window that an interrupted render stored.

A resumed render gives the same video, because its random numbers continue where they stopped. Knows the entries of the
stored state. Does not know who stores the state, nor how a window is made.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lipsync_server.resume_state import State


@dataclass(frozen=True)
class Start:
    """window: index of the first window to run. known: latents (C, k, H, W) that this window takes over, or None."""

    window: int
    known: Tensor | None
    generator: torch.Generator


def first_start(seed: int) -> Start:
    """The start of a new render."""
    return Start(0, None, torch.Generator().manual_seed(seed))


def start_from(state: State) -> Start:
    """The start behind the window that state_after() was called for."""
    first, latents, random = state["next_window"], state.get("latents"), state["random"]
    assert isinstance(first, int)
    assert isinstance(random, np.ndarray)
    generator = torch.Generator()
    generator.set_state(torch.from_numpy(np.array(random, np.uint8)))
    known = torch.from_numpy(np.array(latents, np.float32)) if isinstance(latents, np.ndarray) else None
    return Start(first, known, generator)


def state_after(window: int, known: Tensor | None, generator: torch.Generator) -> State:
    """The state behind the window with this index. known: latents that the next window takes over, or None."""
    state: State = {"next_window": window + 1, "random": generator.get_state().numpy()}
    if known is not None:
        state["latents"] = known.float().cpu().numpy()
    return state
