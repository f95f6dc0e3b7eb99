"""TeaCache: skip the blocks of a forward when its input changed little, and add their last result again.

Neighbouring denoising steps often change a latent in nearly the same way. TeaCache (https://arxiv.org/abs/2411.19108)
estimates the change from the one input that is known before the blocks run, the time projection e0:

    change   = mean |e0 - e0'| / mean |e0'|            e0' of the forward before in the same slot
    gathered = gathered + polynomial(change)           fitted to how much the blocks' output really changes

While `gathered` stays below the threshold, the blocks are skipped and their last residual (output - input) is added;
otherwise they run and `gathered` begins again at 0. A step makes 1 to 3 forwards (guidance.py), each with a slot of its
own. The reference always counts three forwards a step. With two forwards its slots rotate, so that one pass reuses the
other's residual, and the counter continues from window to window; `passes` = 3 does exactly that. With the true number
of passes, every pass has its own slot and every window starts the counter at 0. A resumed job then makes the same video
as a job without interruption. Does not know the model: the caller passes e0 and the residuals.
"""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from torch import Tensor

Resolution = Literal["480p", "720p"]

REFERENCE_PASSES = 3
WARM_UP_STEPS = 5
DEFAULT_THRESHOLD = 0.2
# Fourth-degree fits of the output's change against the change of e0, highest power first, as published.
COEFFICIENTS: dict[Resolution, tuple[float, ...]] = {
    "480p": (257151.496, -35422.9917, 1402.86849, -13.5890334, 0.132517977),
    "720p": (8107.0546, 2133.93892, -372.934672, 16.6203073, -0.0417769401),
}


class Decision(NamedTuple):
    """One forward: its counter, its slot, whether it is computed, and the change gathered since the last time."""

    counter: int
    slot: int
    computed: bool
    accumulated: float


@dataclass
class _Slot:
    accumulated: float = 0.0
    e0: Tensor | None = None
    residual: Tensor | None = None


@dataclass
class TeaCache:
    """The cache of one job. Hand the same object to every forward, in the order in which a step makes them.

    steps: denoising steps of a window. passes: forwards of a step. The sequence restarts after passes * steps forwards.
    """

    resolution: Resolution
    steps: int
    threshold: float = DEFAULT_THRESHOLD
    passes: int = REFERENCE_PASSES
    log: list[Decision] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Return to the state before the first forward of a job."""
        self._slots = [_Slot() for _ in range(self.passes)]
        self._counter = 0
        self._slot = self._slots[0]

    def computes(self, e0: Tensor) -> bool:
        """Decide about the next forward and advance. e0: (1, 6, D) float32 of this forward's timestep."""
        index = self._counter % self.passes
        slot = self._slot = self._slots[index]
        if self._counter < WARM_UP_STEPS * self.passes:
            compute = True
        else:
            slot.accumulated += self._change(e0, slot.e0)
            compute = not slot.accumulated < self.threshold
        if compute:
            slot.accumulated = 0.0
        slot.e0 = e0.detach().clone()
        self.log.append(Decision(self._counter, index, compute, slot.accumulated))
        self._counter += 1
        if self._counter == self.passes * self.steps:
            self._counter = 0
        return compute

    def store(self, residual: Tensor) -> None:
        """Keep the blocks' output minus their input, (N, D) in their type, of the forward that was just computed."""
        self._slot.residual = residual

    @property
    def residual(self) -> Tensor:
        """The blocks' output minus their input, (N, D), of the last computed forward in this forward's slot."""
        assert self._slot.residual is not None
        return self._slot.residual

    def _change(self, e0: Tensor, previous: Tensor | None) -> float:
        """The estimated change of the blocks' output; infinite without a previous e0."""
        if previous is None:
            return float("inf")
        ratio = float((e0 - previous).abs().mean() / previous.abs().mean())
        value = 0.0
        for coefficient in COEFFICIENTS[self.resolution]:
            value = value * ratio + coefficient
        return value
