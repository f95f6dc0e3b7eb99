"""The first window of a render: window 0, or the window after the resume point of an interrupted render.

A resumed render gives the same video, because the state of its random generator is stored too. Knows the entries of the
stored state. Does not know who stores the state, nor how a window is made.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lipsync_server.resume_state import State


@dataclass(frozen=True)
class Start:
    """window: index of the first window to run. known: latents (C, k, H, W) with which this window begins, or None."""

    window: int
    known: Tensor | None
    generator: torch.Generator


def first_start(seed: int) -> Start:
    """The start of a new render."""
    return Start(0, None, torch.Generator().manual_seed(seed))


def start_from(state: State) -> Start:
    """The start after the window of this state, which state_after() made."""
    first, latents, random = state["next_window"], state.get("latents"), state["random"]
    assert isinstance(first, int)
    assert isinstance(random, np.ndarray)
    generator = torch.Generator()
    generator.set_state(torch.from_numpy(np.array(random, np.uint8)))
    known = torch.from_numpy(np.array(latents, np.float32)) if isinstance(latents, np.ndarray) else None
    return Start(first, known, generator)


def state_after(window: int, known: Tensor | None, generator: torch.Generator) -> State:
    """The state after the window with this index. known: latents with which the next window begins, or None."""
    state: State = {"next_window": window + 1, "random": generator.get_state().numpy()}
    if known is not None:
        state["latents"] = known.float().cpu().numpy()
    return state
