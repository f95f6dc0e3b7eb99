"""The agreement of a mouth with the sound: how well the mouth follows the speech, and how late it is.

A small network predicts the lips from the sound (engines/preview/speech.py). The correlation of the predicted and the
seen opening shows whether the mouth says these words. The lag is found from three curves, because the lag of one curve
alone has an error of its own: the opening, the opening's speed, and the pressing of the lips on p, b and m.

    lag = argmax over k of r_opening(k) + r_speed(k) + r_press(k)

k is a shift in steps of 10 ms, and r(k) the correlation at this shift. The maximum of a parabola through the best value
and its two neighbours gives the lag in parts of a step.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from lipsync_server.check.mouth import GRID_HZ, Curve, correlation, smooth
from lipsync_server.engines.preview.speech import mouth_track
from lipsync_server.media_types import SPEECH_RATE_HZ, Speech

MAX_SHIFT_MS: Final = 480
"""The largest lag that is searched."""
_TREND_S: Final = 0.5
"""Changes slower than this are removed from all curves. They come from a turning head or parted lips."""
_SEEN_SMOOTH_S: Final = 0.02
_SPEED_SMOOTH_S: Final = 0.03
_SHUT: Final = 0.012
"""Gap between the lips, as a share of the face's height, at which the press of the lips is 1 / e."""


@dataclass(frozen=True)
class Expected:
    """The lips that the network predicts from the sound, on the grid.

    opening: float64 (n,), 0 shut to 1 wide. press: float64 (n,), 1 where the lips are pressed on p, b and m.
    """

    opening: Curve
    press: Curve


@dataclass(frozen=True)
class Agreement:
    """The agreement of the seen mouth with the expected one.

    r0: correlation of the openings without a shift. r: their correlation at the lag. lag_ms: positive for a mouth that
    is late.
    """

    r0: float
    r: float
    lag_ms: float


def expect(speech: Speech) -> Expected:
    """Predict the lips. speech: float32 (n_samples,), mono at 16 kHz; may be a memory map."""
    track = mouth_track(speech, int(len(speech) / SPEECH_RATE_HZ * GRID_HZ), GRID_HZ).astype(np.float64)
    return Expected(track[:, 0], track[:, 2])


def opening_agreement(expected: Curve, seen: Curve) -> float:
    """Correlation of two openings without a shift, after their slow changes are removed."""
    n = min(len(expected), len(seen))
    return correlation(without_trend(expected[:n]), without_trend(smooth(seen[:n], _SEEN_SMOOTH_S)))


def agree(expected: Expected, seen: Curve) -> Agreement:
    """Compare the expected lips with `seen`, the opening from landmarks. Both have at least one second."""
    n = min(len(expected.opening), len(seen))
    reach = min(MAX_SHIFT_MS * GRID_HZ // 1000, n // 3)
    opening, press, seen = expected.opening[:n], expected.press[:n], seen[:n]
    pressed = np.exp(-np.maximum(seen, 0) / _SHUT)
    by_opening = _by_shift(without_trend(opening), without_trend(smooth(seen, _SEEN_SMOOTH_S)), reach)
    by_speed = _by_shift(
        np.gradient(smooth(opening, _SEEN_SMOOTH_S)), np.gradient(smooth(seen, _SPEED_SMOOTH_S)), reach
    )
    by_press = _by_shift(without_trend(press), without_trend(smooth(pressed, _SEEN_SMOOTH_S)), reach)
    best, part = _peak(by_opening + by_speed + by_press)
    lag_ms = 1000.0 * (best + part - reach) / GRID_HZ
    return Agreement(float(by_opening[reach]), float(by_opening[best]), round(lag_ms, 1))


def without_trend(curve: Curve) -> Curve:
    """`curve` minus its Gaussian mean over _TREND_S seconds."""
    return curve - smooth(curve, _TREND_S)


def _by_shift(expected: Curve, seen: Curve, reach: int) -> Curve:
    """Correlation for each shift of `seen` from -reach to reach steps: float64 (2 * reach + 1,)."""
    n = len(expected)
    return np.array(
        [
            correlation(expected[max(0, -k) : n - max(0, k)], seen[max(0, k) : n - max(0, -k)])
            for k in range(-reach, reach + 1)
        ]
    )


def _peak(values: Curve) -> tuple[int, float]:
    """The index of the maximum, and the maximum of the parabola through its neighbours, -0.5 to 0.5 steps from it."""
    best = int(np.argmax(values))
    if not 0 < best < len(values) - 1:
        return best, 0.0
    before, here, after = values[best - 1 : best + 2]
    bend = before - 2 * here + after
    return best, float(0.5 * (before - after) / bend) if bend < -1e-12 else 0.0
