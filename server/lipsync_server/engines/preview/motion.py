"""The pose of every frame: the mouth from its track, head, brows and breath from the speech's rhythm, blinks by chance.

The rhythm (prosody.py) decides the times. The head takes a new posture with each phrase and nods on stressed syllables.
The brows rise with the strongest of these syllables, and the chest fills before a phrase. A random generator decides
the direction and the size of a movement, and the times of the blinks. A pose depends only on the track, the seed and
the frame's number, so a render can continue from any frame. Knows no picture.
"""

from bisect import bisect_left
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lipsync_server.engines.preview import head
from lipsync_server.engines.preview.mouth import MouthPose
from lipsync_server.engines.preview.prosody import Accent, Phrase, prosody_of
from lipsync_server.engines.preview.puppet import Pose

Track = NDArray[np.float32]
Curve = NDArray[np.float64]

_FADE_IN_S = 0.7
_BLINK_CLOSE_S, _BLINK_HOLD_S, _BLINK_OPEN_S = 0.09, 0.04, 0.2
# Units of the amplitudes: across and down in face heights, angles in radians.
# The standard deviations of a phrase's posture, which is drawn from normal distributions. pitch > 0 looks down.
_POSTURE = {"across": 0.006, "down": 0.004, "roll": 0.013, "yaw": 0.028, "pitch": 0.012}
_POSTURE_S = 0.75
# People begin to move shortly before they speak.
_POSTURE_LEAD_S = 0.25
# A nod is a fall of the head and a slower return. Its lowest point follows the loudest moment of the syllable.
_NOD = {"pitch": 0.034, "down": 0.005}
_NOD_FALL_S, _NOD_RETURN_S, _NOD_LATE_S = 0.2, 0.34, 0.04
# The head sinks in the course of a phrase, as the voice does, and rises for the next.
_SINK = 0.012
# Small movements at all times, so that the head does not stand still in a pause.
_SWAY = {"across": 0.0015, "down": 0.0012, "roll": 0.002, "yaw": 0.005, "pitch": 0.0035}
_BROW_RISE_S, _BROW_FALL_S = 0.18, 0.45
_BREATH_IN_S, _BREATH_OUT_S = 0.5, 2.5
# A jump of the eyes takes about a frame and a half.
_GAZE_JUMP_S, _GAZE_LEAD_S = 0.06, 0.15
_RESTING_BREATH_S = 3.9


@dataclass(frozen=True)
class Amounts:
    """Factors of the face's movements; 1 is natural. blinks: whether the eyes blink. gaze: whether they look aside."""

    head: float = 1.0
    mouth: float = 1.0
    blinks: bool = True
    gaze: bool = True


class Motion:
    """The poses of one video.

    track: float32 (n_frames, 5), columns opening 0 to 1, width -1 to 1, press 0 to 1, loudness 0 to 1, tongue 0 to 1
    (speech.speech_track).
    """

    def __init__(self, track: Track, fps: int, seed: int, amounts: Amounts) -> None:
        rng = np.random.default_rng(seed)
        n = len(track)
        t = np.arange(n) / fps
        self._opening = np.clip(track[:, 0] * amounts.mouth, 0, 1.15)
        self._width, self._press, self._tongue = track[:, 1], track[:, 2], track[:, 4]
        self._lids = _blinks(t, rng) if amounts.blinks else np.zeros((n, 2))
        prosody = prosody_of(track[:, 3], fps)
        weights = np.zeros((n, len(head.BASES)), np.float32)
        for name, curve in _head(t, prosody.phrases, prosody.accents, rng).items():
            weights[:, head.BASES.index(name)] = amounts.head * curve
        weights[:, head.BASES.index("breath")] = _breath(t, prosody.phrases, rng)
        weights[:, head.BASES.index("brow")] = _brows(t, prosody.phrases, prosody.accents, rng)
        # The first frame is the portrait.
        weights *= _ease(t / _FADE_IN_S)[:, None]
        weights[:, head.BASES.index("brow")] -= 0.2 * self._lids.max(axis=1)
        self._head = weights
        self._gaze = np.zeros((n, 2))
        if amounts.gaze:
            # A generator of its own, so that the other movements do not depend on the eyes.
            self._gaze = _gaze(t, prosody.phrases, prosody.accents, np.random.default_rng((seed, 1)))

    def pose(self, frame: int) -> Pose:
        """The pose of one frame. frame: its number, from 0."""
        width, press = float(self._width[frame]), float(np.clip(self._press[frame], 0, 1))
        mouth = MouthPose(
            open=float(self._opening[frame]),
            close=1.0,
            spread=max(width, 0.0),
            narrow=max(-width, 0.0),
            press=press,
            tongue=float(self._tongue[frame]),
        )
        lids = float(self._lids[frame, 0]), float(self._lids[frame, 1])
        return Pose(mouth, self._head[frame], lids, (float(self._gaze[frame, 0]), float(self._gaze[frame, 1])))


def _head(
    t: Curve, phrases: tuple[Phrase, ...], accents: tuple[Accent, ...], rng: np.random.Generator
) -> dict[str, Curve]:
    """The head's movement at the times t in seconds: a curve (n_frames,) for each of its kinds of movement."""
    moves = {name: amplitude * _sway(t, rng) for name, amplitude in _SWAY.items()}
    postures = _postures(phrases, rng)
    for name in _POSTURE:
        moves[name] += _steps(t, [(start_s, posture.get(name, 0.0)) for start_s, posture in postures])
    for phrase in phrases:
        length_s = max(phrase.end_s - phrase.start_s, 0.5)
        part = _between(t, phrase.start_s, phrase.start_s + length_s + _POSTURE_S)
        sunk = np.clip((t[part] - phrase.start_s) / length_s, 0, 1)
        moves["pitch"][part] += _SINK * min(length_s / 2, 1) * sunk * _leave(t[part], phrase.end_s, _POSTURE_S)
    for accent in accents:
        lowest_s = accent.at_s + _NOD_LATE_S
        part = _between(t, lowest_s - _NOD_FALL_S, lowest_s + _NOD_RETURN_S)
        nod = accent.strength * rng.uniform(0.2, 1.3) * _bump(t[part] - lowest_s, _NOD_FALL_S, _NOD_RETURN_S)
        for name, amplitude in _NOD.items():
            moves[name][part] += amplitude * nod
        moves["roll"][part] += 0.008 * rng.normal() * nod
        moves["yaw"][part] += 0.014 * rng.normal() * nod
    return moves


def _postures(phrases: tuple[Phrase, ...], rng: np.random.Generator) -> list[tuple[float, dict[str, float]]]:
    """The postures of the head, each with the time in seconds at which the head begins to take it.

    The empty posture is the portrait's, to which the head returns in long pauses.
    """
    postures: list[tuple[float, dict[str, float]]] = []
    for phrase in phrases:
        start_s = phrase.start_s - _POSTURE_LEAD_S
        if postures and start_s - postures[-1][0] < 0.5 * _POSTURE_S:
            postures.pop()
        postures.append((start_s, {name: rng.normal(0, amplitude) for name, amplitude in _POSTURE.items()}))
        postures.append((phrase.end_s + 0.5 * _POSTURE_S, {}))
    return postures


def _steps(t: Curve, targets: list[tuple[float, float]]) -> Curve:
    """A curve (n_frames,) through the targets (time in seconds, value). A move to a value lasts _POSTURE_S seconds."""
    curve, jumps = np.zeros(len(t)), np.zeros(len(t) + 1)
    last = 0.0
    for start_s, target in targets:
        part = _between(t, start_s, start_s + _POSTURE_S)
        curve[part] += (target - last) * _ease((t[part] - start_s) / _POSTURE_S)
        jumps[part.stop] += target - last
        last = target
    return curve + np.cumsum(jumps[:-1])


def _brows(t: Curve, phrases: tuple[Phrase, ...], accents: tuple[Accent, ...], rng: np.random.Generator) -> Curve:
    """The lift of the brows, (n_frames,), about 0 to 1: high on the strongest accent of a phrase, low on the others."""
    lift = 0.06 * _sway(t, rng)
    times = [accent.at_s for accent in accents]
    for phrase in phrases:
        inside = accents[bisect_left(times, phrase.start_s) : bisect_left(times, phrase.end_s)]
        strongest = max(inside, key=lambda accent: accent.strength, default=None)
        for accent in inside:
            height = rng.uniform(0.45, 1.0) if accent is strongest else rng.uniform(0.0, 0.3)
            part = _between(t, accent.at_s - _BROW_RISE_S, accent.at_s + _BROW_FALL_S)
            rise = accent.strength * height * _bump(t[part] - accent.at_s, _BROW_RISE_S, _BROW_FALL_S)
            lift[part] = np.maximum(lift[part], rise)
    return lift


def _gaze(t: Curve, phrases: tuple[Phrase, ...], accents: tuple[Accent, ...], rng: np.random.Generator) -> Curve:
    """Where the eyes look, (n_frames, 2), across and down, -1 to 1.

    Speakers often look aside while they begin a phrase, and at the listener on the words that they stress. The eyes
    jump and then rest, so a curve is a row of steps.
    """
    targets: list[tuple[float, float, float]] = [(0.0, 0.0, 0.0)]
    for phrase in phrases:
        inside = [accent for accent in accents if phrase.start_s <= accent.at_s < phrase.end_s]
        strongest_s = max(inside, key=lambda accent: accent.strength).at_s if inside else phrase.start_s + 0.6
        aside = rng.uniform(0.5, 1.0) * rng.choice((-1.0, 1.0)), rng.uniform(-0.8, 0.6)
        if rng.random() < 0.6:
            targets.append((phrase.start_s - rng.uniform(0.0, 0.2), *aside))
        # A little before the stress, so that the eyes rest on the listener when it comes.
        targets.append((max(phrase.start_s + 0.3, strongest_s - _GAZE_LEAD_S), 0.0, 0.0))
        for accent in inside:
            if accent.at_s > strongest_s and rng.random() < 0.3:
                targets.append((accent.at_s + 0.15, *(0.5 * rng.uniform(-1, 1, 2))))
                targets.append((accent.at_s + rng.uniform(0.6, 1.1), 0.0, 0.0))
        targets.append((phrase.end_s, 0.0, 0.0))
    targets = [target for target in sorted(targets) if target[0] >= 0]
    times = np.array([target[0] for target in targets])
    places = np.array([target[1:] for target in targets])
    curve = np.zeros((len(t), 2))
    now = np.clip(np.searchsorted(times, t, side="right") - 1, 0, None)
    before = np.clip(now - 1, 0, None)
    arrived = _ease((t - times[now]) / _GAZE_JUMP_S)[:, None]
    curve[:] = places[before] + (places[now] - places[before]) * arrived
    return curve


def _breath(t: Curve, phrases: tuple[Phrase, ...], rng: np.random.Generator) -> Curve:
    """The fullness of the chest, (n_frames,), 0 to 1.

    The chest is full at the beginning of a phrase and empties during its words. At rest its curve is a wave.
    """
    resting = 0.35 - 0.35 * np.cos(2 * np.pi * t / (_RESTING_BREATH_S * rng.uniform(0.9, 1.1)))
    spoken, share = np.zeros(len(t)), np.zeros(len(t))
    for phrase in phrases:
        first_s, last_s = phrase.start_s - _BREATH_IN_S, phrase.end_s + 0.3
        part = _between(t, first_s - _POSTURE_S, last_s + _POSTURE_S)
        plateau = _ease((t[part] - first_s) / _POSTURE_S + 1) * _leave(t[part], last_s, _POSTURE_S)
        share[part] = np.maximum(share[part], plateau)
        if phrase.opens:
            out_s = max(phrase.end_s - phrase.start_s, _BREATH_OUT_S)
            part = _between(t, first_s, phrase.start_s + out_s)
            spoken[part] = np.maximum(spoken[part], _bump(t[part] - phrase.start_s, _BREATH_IN_S, out_s))
    return resting * (1 - share) + spoken * share


def _between(t: Curve, start_s: float, end_s: float) -> slice:
    """The frames whose times are from start_s up to end_s."""
    return slice(int(np.searchsorted(t, start_s)), int(np.searchsorted(t, end_s)))


def _ease(x: Curve) -> Curve:
    """0 below 0, 1 above 1, smooth between."""
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)


def _bump(since: Curve, rise_s: float, fall_s: float) -> Curve:
    """A smooth bump: 0 up to -rise_s, 1 at 0, 0 from fall_s on. since: seconds from the top of the bump."""
    return np.where(since < 0, _ease(1 + since / rise_s), _ease(1 - since / fall_s))


def _leave(t: Curve, end_s: float, span_s: float) -> Curve:
    """1 until end_s, then a smooth fall to 0 in span_s."""
    return 1 - _ease((t - end_s) / span_s)


def _sway(t: Curve, rng: np.random.Generator) -> Curve:
    """Slow smooth noise (n_frames,) with a standard deviation of about 1, at the times t in seconds.

    The noise is a sum of five sine waves of 0.09 to 0.75 Hz. The slower waves are larger.
    """
    rates = np.geomspace(0.09, 0.75, 5) * rng.uniform(0.85, 1.15, 5)
    phases = rng.uniform(0, 2 * np.pi, 5)
    sizes = rates**-0.6
    sizes /= np.sqrt((sizes**2).sum() / 2)
    return np.asarray(np.sin(2 * np.pi * np.outer(t, rates) + phases) @ sizes)


def _blinks(t: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """The closing of each eye, (n_frames, 2), 0 open to 1 shut: every 2 to 6 s a blink, fast down and slowly up."""
    lids = np.zeros((len(t), 2))
    end = t[-1] if len(t) else 0.0
    start = rng.uniform(0.9, 2.5)
    while start < end:
        depth, late = rng.uniform(0.93, 1.0), rng.uniform(-0.012, 0.012)
        for eye in (0, 1):
            since = t - start - eye * late
            down = np.clip(since / _BLINK_CLOSE_S, 0, 1)
            up = np.clip((since - _BLINK_CLOSE_S - _BLINK_HOLD_S) / _BLINK_OPEN_S, 0, 1)
            lids[:, eye] = np.maximum(lids[:, eye], depth * (down**2 * (3 - 2 * down)) * (1 - up) ** 1.6)
        # One blink in twelve is followed by a second one.
        start += 0.45 if rng.random() < 0.08 else rng.uniform(2.0, 6.0)
    return lids
