"""Classifier-free guidance: which predictions a step needs, and how they become one velocity.

One prediction of the model follows its conditions (prompt, sound) weakly. Guidance (https://arxiv.org/abs/2207.12598)
predicts a second time without a condition, and amplifies the difference that the condition made:

    velocity = without + scale * (with - without)          scale 1 is no guidance, 3 to 5 pulls strongly

With two conditions there are three forms, by the two scales:

    1 pass    cond                       both scales 1: distilled models, in which guidance is built in
    2 passes  cond, drop_audio           text scale 1: drop_audio + audio * (cond - drop_audio)
    3 passes  cond, drop_text, uncond    uncond + text * (cond - drop_text) + audio * (drop_text - uncond)

    cond  prompt and sound   drop_text  negative prompt and sound   drop_audio  prompt, silence   uncond  neither

In three passes the sound's effect is measured under the negative prompt, as the reference does. High scales make
colours glaring. Adaptive projected guidance (APG, https://arxiv.org/abs/2410.02416) keeps a running average of each
difference, caps its norm, and removes its part along `cond`, which is the part that oversaturates. Knows no model: the
caller passes predictions by name.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

Pass = Literal["cond", "drop_text", "uncond", "drop_audio"]


@dataclass(frozen=True)
class GuidanceScales:
    """The strength with which the prompt and the audio steer the video; 1 is no guidance.

    interval: with 2 or more, the extra passes run only every `interval`-th step (and in the first and the last), and
    the steps between reuse their difference. 1 is the reference.
    """

    text: float
    audio: float
    interval: int = 1

    @property
    def passes(self) -> tuple[Pass, ...]:
        """The predictions of a guided step, in the order in which the reference makes them."""
        if not math.isclose(self.text, 1.0):
            return ("cond", "drop_text", "uncond")
        if not math.isclose(self.audio, 1.0):
            return ("cond", "drop_audio")
        return ("cond",)

    def passes_at(self, step: int, n_steps: int) -> tuple[Pass, ...]:
        """The predictions to make in `step` (0-based): all of them, or only cond where the difference is reused."""
        guided = self.interval <= 1 or step % self.interval == 0 or step == n_steps - 1
        return self.passes if guided else ("cond",)


@dataclass
class ProjectedGuidance:
    """One running difference of APG; new for every window."""

    momentum: float = -0.75
    norm_threshold: float = 55.0
    average: Tensor | None = field(default=None, repr=False)

    def update(self, difference: Tensor, cond: Tensor) -> Tensor:
        """Add `difference` to the running average; return the capped average's part that is orthogonal to `cond`.

        difference, cond: (C, T, h, w) float32. With average a and cap r: a = difference + momentum * a, then
        a * min(1, r / |a|), less its projection on cond (in float64). The average itself stays uncapped.
        """
        self.average = difference if self.average is None else difference + self.momentum * self.average
        capped = self.average
        if self.norm_threshold > 0:
            # A tensor, so that no host synchronisation is needed; the cap is not written back to the average.
            capped = capped * (self.norm_threshold / capped.norm()).clamp(max=1.0)
        direction = cond.double()
        direction = direction / direction.norm().clamp(min=1e-12)
        exact = capped.double()
        orthogonal: Tensor = exact - (exact * direction).sum() * direction
        return orthogonal.to(difference.dtype)


class Guidance:
    """Combines the predictions of one window, step by step; keeps the last difference for steps that reuse it."""

    def __init__(
        self, scales: GuidanceScales, *, apg: tuple[ProjectedGuidance, ProjectedGuidance] | None = None
    ) -> None:
        self.scales = scales
        self._apg = apg
        self._last_change: Tensor | None = None

    def velocity(self, predictions: Mapping[Pass, Tensor]) -> Tensor:
        """One velocity from the predictions that `GuidanceScales.passes_at` lists, float32 (16, T, h, w) each."""
        cond = predictions["cond"]
        text, audio = self.scales.text, self.scales.audio
        if "uncond" in predictions:
            velocity = self._three(cond, predictions["drop_text"], predictions["uncond"], text, audio)
        elif "drop_audio" in predictions:
            velocity = self._two(cond, predictions["drop_audio"], audio)
        elif self._last_change is not None:
            return cond + self._last_change
        else:
            return cond
        if self.scales.interval > 1:
            self._last_change = velocity - cond
        return velocity

    def _three(self, cond: Tensor, drop_text: Tensor, uncond: Tensor, text: float, audio: float) -> Tensor:
        if self._apg is None:
            return uncond + text * (cond - drop_text) + audio * (drop_text - uncond)
        by_text, by_audio = self._apg
        return (
            cond
            + (text - 1) * by_text.update(cond - drop_text, cond)
            + (audio - 1) * by_audio.update(drop_text - uncond, cond)
        )

    def _two(self, cond: Tensor, drop_audio: Tensor, audio: float) -> Tensor:
        if self._apg is None:
            return drop_audio + audio * (cond - drop_audio)
        return cond + (audio - 1) * self._apg[1].update(cond - drop_audio, cond)
