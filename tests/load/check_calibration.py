"""The calibration table of the quality check: real clips of people talking, and the same clips spoilt.

    python tests/load/check_calibration.py FOLDER

FOLDER has clips as MP4 in which picture and sound agree. Every second clip (by name) is part A, the others are part B.
Prints the table of docs/quality-check.md for both parts with the limits of check/judge.py, then the result of each clip
with the two limits that a rule chooses on all other clips. The faults are made from the decoded frames and sound.
"""

import argparse
import hashlib
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from lipsync_server.check.agreement import Expected, expect
from lipsync_server.check.judge import FULL_R, MAX_LAG_MS, judge
from lipsync_server.check.listen import listen
from lipsync_server.check.quality import Quality
from lipsync_server.check.watch import FPS, MAX_SIDE_PX, Seen, watch
from lipsync_server.media.sandbox.pool import DecoderPool
from lipsync_server.media.sandbox.tasks import DecodeSpeech
from lipsync_server.media.sandbox.video_frames import read_video_frames, video_duration_s
from lipsync_server.media.sound.speech import map_speech
from lipsync_server.media_types import SPEECH_RATE_HZ, Frames, Speech

SHIFTS_MS = (-400, -160, -80, 80, 160, 400)
BAR = 0.6
LONGEST_S = 8.0
"""Faults of the picture are tried on this much of each clip."""

Fault = Callable[[Iterator[Frames], int], Iterator[Frames]]


def frozen(frames: Iterator[Frames], n: int) -> Iterator[Frames]:
    kept: Frames | None = None
    for i, frame in enumerate(frames):
        kept = frame if i <= n // 3 else kept
        yield frame if kept is None else kept


def black(frames: Iterator[Frames], n: int) -> Iterator[Frames]:
    for i, frame in enumerate(frames):
        yield frame if i < n // 2 else np.zeros_like(frame)


def noise(frames: Iterator[Frames], n: int) -> Iterator[Frames]:
    random = np.random.default_rng(0)
    for frame in frames:
        yield random.integers(0, 256, frame.shape, np.uint8)


def colour(frames: Iterator[Frames], n: int) -> Iterator[Frames]:
    for i, frame in enumerate(frames):
        gain = 1 + 0.4 * i / n * np.array([1, 0, -1])
        yield np.clip(frame * gain, 0, 255).astype(np.uint8)


def blurred(frames: Iterator[Frames], n: int) -> Iterator[Frames]:
    for i, frame in enumerate(frames):
        yield np.asarray(cv2.GaussianBlur(frame, (0, 0), 0.1 + 3 * i / n), np.uint8)


def flicker(frames: Iterator[Frames], n: int) -> Iterator[Frames]:
    for i, frame in enumerate(frames):
        yield np.clip(frame * (1.08 if i % 2 else 0.92), 0, 255).astype(np.uint8)


def cuts(frames: Iterator[Frames], n: int) -> Iterator[Frames]:
    """A jump every 3.2 s, as between two windows of a model: the picture moves by 4 % and is 6 % brighter."""
    for i, frame in enumerate(frames):
        if i // round(3.2 * FPS) % 2:
            frame = np.roll(frame, round(0.04 * frame.shape[1]), axis=1)
            frame = np.clip(frame * 1.06, 0, 255).astype(np.uint8)
        yield frame


FAULTS: dict[str, Fault] = {
    "freezes after a third": frozen,
    "black from the middle": black,
    "noise": noise,
    "colour drifts by 40 %": colour,
    "sharpness drifts": blurred,
    "brightness flickers by 8 %": flicker,
    "jumps every 3.2 s": cuts,
}


class Clip:
    """A clip's figures and sound, measured once."""

    def __init__(self, path: Path, pool: DecoderPool, scratch: Path) -> None:
        self.path = path
        self.duration_s = video_duration_s(path)
        begin = time.process_time(), time.monotonic()
        self.seen = self.look(self.duration_s)
        self.cpu_s, self.wall_s = time.process_time() - begin[0], time.monotonic() - begin[1]
        self.speech: Speech = np.array(map_speech(pool.run(DecodeSpeech(path, scratch, 3600))))
        self._expected: dict[bytes, Expected] = {}

    def look(self, duration_s: float, fault: Fault | None = None) -> Seen:
        n = max(1, round(duration_s * FPS))
        frames = read_video_frames(self.path, range(n), fps=FPS, max_side=MAX_SIDE_PX)
        return watch(fault(frames, n) if fault else frames, n, 0)

    def quality(
        self,
        speech: Speech | None,
        seen: Seen | None = None,
        *,
        full_r: float = FULL_R,
        max_lag_ms: float = MAX_LAG_MS,
    ) -> Quality:
        seen = seen or self.seen
        if speech is None:
            return judge(seen, None, None, expects_face=True)
        speech = np.resize(speech, round(seen.n / FPS * SPEECH_RATE_HZ)).astype(np.float32)
        known = hashlib.sha256(speech.tobytes()).digest()
        if known not in self._expected:
            self._expected[known] = expect(speech)
        expected = self._expected[known]
        return judge(seen, listen(speech), expected, expects_face=True, full_r=full_r, max_lag_ms=max_lag_ms)


def moved(speech: Speech, by_ms: int) -> Speech:
    """The sound later (positive) or earlier, with silence at the end that is missing."""
    n = abs(by_ms) * SPEECH_RATE_HZ // 1000
    gap = np.zeros(n, np.float32)
    return np.concatenate([gap, speech[:-n]]) if by_ms > 0 else np.concatenate([speech[n:], gap])


def clipped(speech: Speech) -> Speech:
    """The sound ten times as loud as full scale allows."""
    loud: Speech = np.clip(10 * speech / max(float(np.abs(speech).max()), 1e-6), -1, 1).astype(np.float32)
    return loud


SOUND_FAULTS: dict[str, Callable[[Speech], Speech | None]] = {
    **{f"sound moved by {ms:+d} ms": partial(moved, by_ms=ms) for ms in SHIFTS_MS},
    "sound clipped": clipped,
    "sound silent": np.zeros_like,
    "no sound": lambda speech: None,
}


def with_sound(spoil: Callable[[Speech], Speech | None], clip: Clip) -> Quality:
    return clip.quality(spoil(clip.speech))


def with_picture(fault: Fault, clip: Clip) -> Quality:
    return clip.quality(clip.speech, clip.look(min(clip.duration_s, LONGEST_S), fault))


def score_of(quality: Quality) -> float:
    return float("nan") if quality.score is None else quality.score


def cells(found: list[Quality]) -> list[str]:
    """Lowest, median and highest score, and how many are below the bar; a dash where no video has a score."""
    scores = np.array([score_of(quality) for quality in found])
    if not np.isfinite(scores).any():
        return ["-", "-", "-", f"0 of {len(found)}"]
    figures = [f"{figure(scores):.2f}" for figure in (np.nanmin, np.nanmedian, np.nanmax)]
    return [*figures, f"{int((scores < BAR).sum())} of {len(found)}"]


def row(name: str, parts: tuple[list[Quality], list[Quality]]) -> str:
    names = sorted({finding.name for found in parts for quality in found for finding in quality.findings})
    return f"| {name} | {' | '.join(cells(parts[0]) + cells(parts[1]))} | {', '.join(names)} |"


def limits_of(part: list[Clip]) -> tuple[float, float]:
    """FULL_R and MAX_LAG_MS as this part alone would choose them.

    FULL_R: 5 % of the pairs of a clip and another clip's sound reach the bar. MAX_LAG_MS: 5 ms more than the largest
    lag of a real clip.
    """
    other = [a.quality(b.speech).mouth_r or 0.0 for a in part for b in part if a is not b]
    lags = [abs(lag) for clip in part if (lag := clip.quality(clip.speech).lag_ms) is not None]
    return round(float(np.percentile(other, 95)) / BAR, 2), max(lags) + 5


def left_out(clips: list[Clip]) -> Iterator[str]:
    """Each clip with limits that were chosen on the other clips: a row for each fault with both numbers."""
    groups: dict[str, list[Quality]] = {"as they are": [], "by 80 ms": [], "by 160, 400 ms": [], "another clip's": []}
    full_rs, lags = [], []
    for clip in clips:
        others = [other for other in clips if other is not clip]
        full_r, max_lag_ms = limits_of(others)
        full_rs.append(full_r)
        lags.append(max_lag_ms)

        def judged(speech: Speech, clip: Clip = clip, full_r: float = full_r, lag: float = max_lag_ms) -> Quality:
            return clip.quality(speech, full_r=full_r, max_lag_ms=lag)

        groups["as they are"].append(judged(clip.speech))
        groups["another clip's"] += [judged(other.speech) for other in others]
        for ms in SHIFTS_MS:
            groups["by 80 ms" if abs(ms) == 80 else "by 160, 400 ms"].append(judged(moved(clip.speech, ms)))
    yield f"| FULL_R | {min(full_rs)} to {max(full_rs)} |"
    yield f"| MAX_LAG_MS | {min(lags):.0f} to {max(lags):.0f} ms |"
    for name, found in groups.items():
        yield f"| {name} | {sum(score_of(quality) < BAR for quality in found)} of {len(found)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    pool = DecoderPool(n_warm=1)
    with tempfile.TemporaryDirectory() as scratch:
        clips = [Clip(path, pool, Path(scratch)) for path in sorted(folder.glob("*.mp4"))]
    pool.close()
    print("| clip | score | r | lag ms | closures | findings |\n|---|---|---|---|---|---|")
    for clip in clips:
        found = clip.quality(clip.speech)
        lag = "" if found.lag_ms is None else f"{found.lag_ms:.0f}"
        names = ", ".join(finding.name for finding in found.findings)
        print(
            f"| {clip.path.stem} | {found.score} | {found.mouth_r} | {lag} | {found.closures} | {names} |", flush=True
        )
    parts = clips[::2], clips[1::2]
    print(
        "\n| clips | A: lowest | median | highest | below 0.6 | B: lowest | median | highest | below 0.6 | findings |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")

    def of_parts(judged: Callable[[Clip], Quality]) -> tuple[list[Quality], list[Quality]]:
        return [judged(clip) for clip in parts[0]], [judged(clip) for clip in parts[1]]

    print(row("as they are", of_parts(lambda clip: clip.quality(clip.speech))))
    others = [[a.quality(b.speech) for a in part for b in part if a is not b] for part in parts]
    print(row("another clip's sound", (others[0], others[1])), flush=True)
    for name, spoil in SOUND_FAULTS.items():
        print(row(name, of_parts(partial(with_sound, spoil))), flush=True)
    for name, fault in FAULTS.items():
        print(row(name, of_parts(partial(with_picture, fault))), flush=True)
    full_r, max_lag_ms = limits_of(clips)
    print(f"\nThe rule on all clips: FULL_R {full_r}, MAX_LAG_MS {max_lag_ms:.0f}.")
    print("\n| sound, limits of the other clips | below 0.6 |\n|---|---|")
    for line in left_out(clips):
        print(line, flush=True)
    errors = [
        (clip.quality(moved(clip.speech, ms)).lag_ms or 0.0) - ((clip.quality(clip.speech).lag_ms or 0.0) - ms)
        for clip in clips
        for ms in (-80, 80)
    ]
    print(f"\nThe lag moves with a shift of 80 ms to within {max(map(abs, errors)):.0f} ms (median "
          f"{np.median(np.abs(errors)):.0f} ms), so the clips' own offsets are what a shift hides in.")  # fmt: skip
    seconds = sum(clip.duration_s for clip in clips)
    print(
        f"\nWatching took {sum(clip.cpu_s for clip in clips) / seconds:.2f} s of processor time (decoder process not "
        f"counted) and {sum(clip.wall_s for clip in clips) / seconds:.2f} s a second of video."
    )


if __name__ == "__main__":
    main()
