"""Turn the figures of a video into findings with times, and the findings into the score.

    score = mouth part * product of the findings' weights
    mouth part = correlation with the expected opening / FULL_R, at most 1, and lower with a lag

Every limit separates real clips from clips with faults in the table of docs/quality-check.md.
"""

from collections.abc import Iterator
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from lipsync_server.check import mouth
from lipsync_server.check.agreement import Agreement, Expected, agree, opening_agreement
from lipsync_server.check.listen import Heard, runs
from lipsync_server.check.mouth import Curve
from lipsync_server.check.quality import Finding, Quality
from lipsync_server.check.watch import FPS, Seen, Series

FULL_R: Final = 0.5
"""From this correlation on, the mouth part is 1.

Real clips have 0.38 to 0.83. Of clips with another clip's sound, 95 % have less than 0.25.
"""
MAX_LAG_MS: Final = 55
"""The largest lag without a finding. Real clips have lags up to 48 ms, and people notice about 80 ms."""
_LAG_IS_SURE_R: Final = 0.3
"""If the best correlation is below this value, the lag is random."""
_MIN_S: Final = 1.5
_MIN_RANGE: Final = 0.012
_BLACK_LUMA, _FLAT_CONTRAST = 24, 8
_STILL_CHANGE: Final = 0.05
_STILL_S: Final = 0.6
_NOISE: Final = 5
_FLICKER_LUMA: Final = 3
_FLICKER_SHARE: Final = 0.15
_CUT_CHANGE, _CUT_RATIO = 4, 3
"""A cut changes the frame by more than 4, and by more than 3 times the usual change.

The usual change is the 90th percentile of the second around. Real clips without a cut reach 2.1 times the usual change,
and jumps 4.0 times.
"""
_ONE_CUT, _SEVERAL_CUTS = 0.85, 0.7
_COLOUR_DRIFT: Final = 0.03
_LUMA_DRIFT: Final = 18
_DETAIL_DRIFT: Final = 2.5
_CLIPPED: Final = 0.005
_LENGTH_S: Final = 0.25
_UNLIKE: Final = 0.6
_SIZE_DRIFT: Final = 1.6

NoScore = Literal["by_prediction", "two_people"]
_WHY_NO_SCORE: Final[dict[NoScore, str]] = {
    "by_prediction": "This engine moves the mouth by the same prediction as the check uses, so there is no score.",
    "two_people": "Two people speak and the check follows one mouth, so there is no score.",
}


def judge(
    seen: Seen,
    heard: Heard | None,
    expected: Expected | None,
    *,
    expects_face: bool,
    no_score: NoScore | None = None,
    full_r: float = FULL_R,
    max_lag_ms: float = MAX_LAG_MS,
) -> Quality:
    """The quality of a video.

    expected: the lips that a network predicts from the sound; None without sound. expects_face:
    whether the picture of the request has a face. If so, a video without a face is bad; if not, it cannot be judged.
    no_score: why the agreement of mouth and sound shows nothing for this video, or None. full_r,
    max_lag_ms: other limits than FULL_R and MAX_LAG_MS, for the calibration.
    """
    findings = [*_of_picture(seen), *_of_sound(seen, heard)]
    broken = float(np.prod([finding.weight for finding in findings]))
    end = seen.n / FPS
    face_share = float(np.nanmean(seen.face)) if seen.n else 0.0
    curve = _mouth(seen)
    agreement = part = closures = None
    if not seen.has_face:
        if expects_face:
            findings.append(Finding("no_face", 0, end, "No face is in the video, though the picture has one.", 0.0))
            broken = 0.0
        else:
            findings.append(Finding("no_face", 0, end, "No face is in the video, so the mouth could not be checked."))
    elif heard is None or heard.is_silent or expected is None or not expected.opening.any():
        findings.append(Finding("no_speech", 0, end, "Nobody speaks in the sound, so the mouth could not be checked."))
    elif min(len(curve), len(expected.opening)) < _MIN_S * mouth.GRID_HZ:
        findings.append(Finding("short", 0, end, f"The mouth can be checked from {_MIN_S:g} s of speech on."))
    elif no_score is not None:
        findings.append(Finding(no_score, 0, end, _WHY_NO_SCORE[no_score]))
        agreement = agree(expected, curve)
    else:
        agreement = agree(expected, curve)
        part = _mouth_part(agreement, full_r, max_lag_ms)
        closures = closure_share(expected.opening, curve)
        findings += _of_mouth(agreement, curve, expected.opening, end, max_lag_ms)
        broken = float(np.prod([finding.weight for finding in findings]))
    return Quality(
        score=round(part * broken, 3) if part is not None else 0.0 if broken < 0.3 else None,
        findings=tuple(sorted(findings, key=lambda finding: finding.from_s)),
        mouth_r=round(agreement.r0, 3) if agreement else None,
        lag_ms=agreement.lag_ms if agreement and agreement.r >= _LAG_IS_SURE_R else None,
        closures=None if closures is None else round(closures, 2),
        face_share=round(face_share, 3),
    )


def closure_share(expected: Curve, opening: Curve) -> float | None:
    """Share of the expected closures at which the mouth reaches the lowest third of its openings within 80 ms."""
    n = min(len(expected), len(opening))
    closed = [(a, b) for a, b in runs(expected[:n] < 0.05) if a > 0 and b < n and b - a >= 4]
    if not closed:
        return None
    low = float(np.percentile(opening, 33))
    return float(np.mean([opening[max(0, a - 8) : b + 8].min() <= low for a, b in closed]))


def _mouth(seen: Seen) -> Curve:
    """The measured opening of the mouth, 100 values a second."""
    return mouth.on_grid(seen.opening, FPS)


def _mouth_part(agreement: Agreement, full_r: float, max_lag_ms: float) -> float:
    """The mouth part of the score: min(1, r0 / full_r).

    With a lag over `max_lag_ms` it is at most 0.55 - (|lag_ms| - max_lag_ms) / 400.
    """
    part = min(max(agreement.r0 / full_r, 0.0), 1.0)
    if agreement.r >= _LAG_IS_SURE_R and abs(agreement.lag_ms) > max_lag_ms:
        part = min(part, max(0.0, 0.55 - (abs(agreement.lag_ms) - max_lag_ms) / 400))
    return part


def _of_mouth(agreement: Agreement, curve: Curve, expected: Curve, end: float, max_lag_ms: float) -> Iterator[Finding]:
    """Findings about the mouth. Their weight is 1 if the mouth part of the score already counts them."""
    if agreement.r >= _LAG_IS_SURE_R and abs(agreement.lag_ms) > max_lag_ms:
        order = "after" if agreement.lag_ms > 0 else "before"
        yield Finding("lag", 0, end, f"The mouth moves {abs(agreement.lag_ms):.0f} ms {order} the sound.")
    elif agreement.r0 < 0.3:
        yield Finding("mouth", 0, end, f"The mouth does not follow the speech (correlation {agreement.r0:.2f}).")
    else:
        for first, last in _unfollowed(expected, curve):
            yield Finding("mouth", first, last, "The mouth does not follow the speech here.", 0.9)
    spread = float(np.percentile(curve, 95) - np.percentile(curve, 5))
    if spread < _MIN_RANGE:
        yield Finding("still_mouth", 0, end, "The mouth hardly opens.", max(0.3, spread / _MIN_RANGE))


def _unfollowed(expected: Curve, curve: Curve, window_s: int = 8) -> Iterator[tuple[float, float]]:
    """(from_s, to_s) of every window with speech in which the mouth has no correlation with the expected opening."""
    step = window_s * mouth.GRID_HZ
    n = min(len(expected), len(curve))
    for start in range(0, n - step + 1, step):
        part = slice(start, start + step)
        if expected[part].max() > 0.3 and opening_agreement(expected[part], curve[part]) < 0.02:
            yield start / mouth.GRID_HZ, (start + step) / mouth.GRID_HZ


def _of_picture(seen: Seen) -> Iterator[Finding]:
    """Findings about the picture. The weight of a long fault falls with its share of the video."""
    total = max(seen.n, 1)
    for first, last in _long_runs((seen.luma < _BLACK_LUMA) & (seen.contrast < _FLAT_CONTRAST), 2):
        yield _finding("black", first, last, "The picture is black.", 1 - 1.5 * (last - first) / total - 0.4)
    for first, last in _long_runs(seen.noise > _NOISE, 2):
        yield _finding("noise", first, last, "The picture is noise.", 1 - 1.5 * (last - first) / total - 0.3)
    black = seen.luma < _BLACK_LUMA
    for first, last in _long_runs((seen.change < _STILL_CHANGE) & ~black, round(_STILL_S * FPS)):
        yield _finding("frozen", first, last, "The picture stands still.", 1 - 1.5 * (last - first) / total - 0.25)
    yield from _of_flicker(seen)
    yield from _of_cuts(seen)
    yield from _of_drift(seen)
    yield from _of_face(seen)


def _of_flicker(seen: Seen) -> Iterator[Finding]:
    """Findings about brightness that flickers.

    A frame flickers if its brightness differs from the mean of its two neighbours by more than _FLICKER_LUMA. A second
    flickers if more than _FLICKER_SHARE of its frames do.
    """
    if seen.n < 5:
        return
    bend = np.abs(seen.luma[1:-1] - (seen.luma[:-2] + seen.luma[2:]) / 2)
    window = min(len(bend), round(FPS))
    share = np.convolve(bend > _FLICKER_LUMA, np.ones(window) / window, "same")
    for first, last in _long_runs(share > _FLICKER_SHARE, 3):
        yield _finding("flicker", first, last, "The brightness flickers.", 0.5)


def _of_cuts(seen: Seen) -> Iterator[Finding]:
    """Findings about sudden changes of the whole picture, such as a jump between two windows of a model.

    A good render has none. A broadcast has cuts.
    """
    cuts = []
    for i in np.flatnonzero(seen.change > _CUT_CHANGE).tolist():
        around = np.concatenate([seen.change[max(0, i - 12) : i], seen.change[i + 1 : i + 13]])
        usual = float(np.nanpercentile(around, 90)) if np.isfinite(around).any() else 0.0
        if seen.change[i] > _CUT_RATIO * (usual + 0.5):
            cuts.append(i)
    for i in cuts:
        yield _finding("cut", i, i + 1, "The picture jumps.", _ONE_CUT if len(cuts) == 1 else _SEVERAL_CUTS)


def _of_drift(seen: Seen) -> Iterator[Finding]:
    """Slow changes of colour, brightness and sharpness: each second is compared with the first one."""
    size = round(FPS)
    n = seen.n // size
    if n < 2:
        return

    def windows(values: Series) -> Series:
        return np.asarray(np.nanmedian(values[: n * size].reshape(n, size), axis=1), np.float64)

    usable = windows(seen.luma) >= _BLACK_LUMA
    colour = np.maximum(np.abs(_from_first(windows(seen.red))), np.abs(_from_first(windows(seen.blue))))
    luma = np.abs(_from_first(windows(seen.luma)))
    detail = windows(seen.detail) + 1.0
    ratio = np.maximum(detail / detail[0], detail[0] / detail)
    for name, wrong, sentence in (
        ("colour_drift", (colour > _COLOUR_DRIFT) | (luma > _LUMA_DRIFT), "Colour or brightness has drifted."),
        ("sharpness_drift", ratio > _DETAIL_DRIFT, "The sharpness has drifted."),
    ):
        for first, last in runs(wrong & usable):
            yield Finding(name, float(first), float(last), f"{sentence} The first second is the measure.", 0.55)


def _from_first(values: Series) -> Series:
    """The difference of each value to the first one."""
    return np.asarray(values - values[0], np.float64)


def _of_face(seen: Seen) -> Iterator[Finding]:
    """Findings about a face that disappears, changes its shape or size, or jumps."""
    if not seen.has_face:
        return
    known = np.flatnonzero(np.isfinite(seen.face))
    step = int(known[1] - known[0]) if len(known) > 1 else 1
    lost = seen.face[known] == 0
    for first, last in _long_runs(lost, 2):
        share = (last - first) / len(known)
        yield _finding("face_lost", first * step, last * step, "The face is gone.", max(0.0, 0.8 - 2 * share))
    unlike = np.nan_to_num(seen.unlike[known]) > _UNLIKE
    for first, last in _long_runs(unlike, round(0.5 * FPS / step)):
        yield _finding("face_changed", first * step, last * step, "The face has another shape than at the start.", 0.6)
    heights = seen.height[known]
    usual = float(np.nanmedian(heights[: round(FPS)]))
    size = np.nan_to_num(np.maximum(heights / usual, usual / np.maximum(heights, 1e-6)), nan=1.0)
    for first, last in _long_runs(size > _SIZE_DRIFT, round(0.5 * FPS / step)):
        yield _finding("face_size", first * step, last * step, "The face has another size than at the start.", 0.7)
    moves = np.hypot(np.diff(seen.x[known]), np.diff(seen.y[known])) / usual
    for i in np.flatnonzero(moves > 0.5):
        yield _finding("face_jump", int(i) * step, int(i + 1) * step, "The face jumps to another place.", 0.8)


def _of_sound(seen: Seen, heard: Heard | None) -> Iterator[Finding]:
    """Findings about the sound: missing, silent, clipped, or of another length than the picture."""
    end = seen.n / FPS
    if heard is None:
        yield Finding("no_sound", 0, end, "The video has no sound.", 0.0)
        return
    if heard.is_silent:
        yield Finding("silence", 0, heard.duration_s, "The sound is silent from start to end.")
    else:
        for first, last in heard.silences:
            yield Finding("silence", first, last, f"The sound is silent for {last - first:.1f} s.")
    if heard.clipped > _CLIPPED:
        yield Finding(
            "clipped", 0, heard.duration_s, f"{heard.clipped:.1%} of the sound is clipped: record lower.", 0.9
        )
    if abs(heard.duration_s - end) > _LENGTH_S:
        yield Finding("length", min(heard.duration_s, end), max(heard.duration_s, end),
                      "Picture and sound have different lengths.", 0.8)  # fmt: skip


def _long_runs(mask: NDArray[np.bool_], shortest: int) -> list[tuple[int, int]]:
    """(start, stop) of every run of at least `shortest` True values."""
    return [(first, last) for first, last in runs(mask) if last - first >= shortest]


def _finding(name: str, first: int, last: int, sentence: str, weight: float) -> Finding:
    """A finding from frame `first` to before frame `last`. The weight is clipped to 0 to 1."""
    return Finding(name, round(first / FPS, 2), round(last / FPS, 2), sentence, min(max(weight, 0.0), 1.0))
