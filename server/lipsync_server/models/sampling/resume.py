"""The first window of a render: window 0, or the window after the resume point of an interrupted render.

A resumed render gives the same video, because the state of its random generator and the chosen ways of computing
(kernels/choice.py) are stored too. Knows the entries of the stored state. Does not know who stores the state, nor how a
window is made.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from lipsync_server.resume_state import State


@dataclass(frozen=True)
class Start:
    """The state from which a render begins. window: index of the first window to run.

    known: latents (C, k, H, W) with which this window begins, or None. generator: random numbers of the job.

    choices: question -> way of the choices with which the windows before were computed; empty for a new render.
    """

    window: int
    known: Tensor | None
    generator: torch.Generator
    choices: Mapping[str, str] = field(default_factory=dict)


def start_of(state: State | None, seed: int) -> Start:
    """The start of a new render with `seed`, or of one that goes on after the window of a stored state.

    state: as state_after() made it; None for a new render.
    """
    if state is None:
        return Start(0, None, torch.Generator().manual_seed(seed))
    first, latents, random = state["next_window"], state.get("latents"), state["random"]
    assert isinstance(first, int)
    assert isinstance(random, np.ndarray)
    generator = torch.Generator()
    generator.set_state(torch.from_numpy(np.array(random, np.uint8)))
    known = torch.from_numpy(np.array(latents, np.float32)) if isinstance(latents, np.ndarray) else None
    return Start(first, known, generator, _choices_in(state.get("choices")))


def _choices_in(stored: object) -> dict[str, str]:
    """The stored choices; none in a state that an older version stored."""
    found = json.loads(stored) if isinstance(stored, str) else {}
    return {str(question): str(way) for question, way in found.items()}


def state_after(
    window: int, known: Tensor | None, generator: torch.Generator, choices: Mapping[str, str] | None = None
) -> State:
    """The state after the window with this index. known: latents with which the next window begins, or None.

    choices: question -> way of the choices in use.
    """
    state: State = {"next_window": window + 1, "random": generator.get_state().numpy()}
    if choices:
        state["choices"] = json.dumps(choices, sort_keys=True)
    if known is not None:
        state["latents"] = known.float().cpu().numpy()
    return state
