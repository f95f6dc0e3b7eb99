"""The verdict of `lipsync selftest` on weights, in words: whether they make a video of this person speaking.

The verb renders three seconds of the shipped sample. This module judges the video: whether it is a picture and not
noise, whether it shows this face, whether the mouth follows the speech, and how fast the render was. The report can be
attached to an issue. It names the card, the software and the figures, and no file, address or token of the machine.
Knows the check and the figures of the bill. Does not know the render.
"""

import io
import json
import platform
import zipfile
from collections.abc import Iterable
from contextlib import closing
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Final, Literal

import cv2
import numpy as np
import soundfile
from numpy.typing import NDArray
from PIL import Image

from lipsync_server import __version__
from lipsync_server.check import mouth
from lipsync_server.check.quality import Quality
from lipsync_server.cloud.costs.speeds import expected_speed, row_of_job
from lipsync_server.durable import write_file
from lipsync_server.engines.hardware import cpu_name, gpus, usable_cpus
from lipsync_server.engines.landmarks import Points, landmarker
from lipsync_server.media.sandbox.video_frames import read_video_frames
from lipsync_server.media_types import Frames
from lipsync_server.paths import SAMPLES_DIR

SECONDS: Final = 3.0
PORTRAIT: Final = SAMPLES_DIR / "portrait.jpg"

Word = Literal["pass", "noise", "black", "no face", "another face", "mouth", "frozen", "broken"]

_N_FRAMES: Final = 8
_MIN_LIKENESS: Final = 0.6
"""Correlation of the upper face with the portrait's: 0.98 for the preview, -0.27 to 0.35 for twelve other people."""
_MIN_R: Final = 0.3
_MAX_LAG_MS: Final = 100
_SIDE_PX: Final = 64
_SENTENCES: Final[dict[Word, str]] = {
    "pass": "The video shows the person of the portrait, and the mouth follows the speech.",
    "noise": "The video is noise and shows no face. The weights are random, damaged, or read wrongly.",
    "black": "The video is black.",
    "no face": "The face is gone in a part of the video.",
    "another face": "The video shows a face, but not the one of the portrait.",
    "mouth": "The video shows the person of the portrait, but the mouth does not follow the speech.",
    "frozen": "The picture stands still.",
    "broken": "The picture or the sound of the video is broken; see the findings.",
}


@dataclass(frozen=True)
class Rendered:
    """A finished video and its figures.

    video, sheet: contents of the MP4 and of the contact sheet. seconds_per_second: of work for a second of video,
    without loading and check. card: its name, "" on a CPU.
    """

    engine: str
    preset: str
    video: bytes
    sheet: bytes
    quality: Quality
    seconds_per_second: float
    card: str
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """The verdict on a rendered video.

    word: the verdict for programs. likeness: correlation of the face with the portrait's, None without a face.
    expected_s: seconds of work for a second of video that the bill expects of this card, None where no figure is known.
    """

    word: Word
    sentence: str
    likeness: float | None
    mouth_r: float | None
    lag_ms: float | None
    face_share: float
    seconds_per_second: float
    expected_s: float | None
    expected_from: str

    @property
    def passed(self) -> bool:
        """Whether the weights work."""
        return self.word == "pass"


def write_speech(path: Path) -> None:
    """Write the first three seconds of the shipped recording as a WAV."""
    samples, rate_hz = soundfile.read(SAMPLES_DIR / "speech.wav")
    soundfile.write(path, samples[: round(SECONDS * rate_hz)], rate_hz)


def judge_render(rendered: Rendered, video: Path) -> Verdict:
    """The verdict on a video of the sample. video: its file."""
    return verdict_of(rendered, _likeness(video))


def verdict_of(rendered: Rendered, likeness: float | None) -> Verdict:
    """The verdict from figures. likeness: correlation of the face with the portrait's, None without a face."""
    quality = rendered.quality
    word = _word(quality, likeness)
    row = row_of_job(rendered.engine, rendered.preset, {})
    expected = expected_speed(rendered.card, row) if rendered.card else None
    return Verdict(
        word=word,
        sentence=_SENTENCES[word],
        likeness=likeness,
        mouth_r=quality.mouth_r,
        lag_ms=quality.lag_ms,
        face_share=quality.face_share,
        seconds_per_second=round(rendered.seconds_per_second, 3),
        expected_s=expected.seconds if expected else None,
        expected_from=f"{expected.origin}: {expected.source}" if expected else "",
    )


def _word(quality: Quality, likeness: float | None) -> Word:
    """The first fault in the order of this function, or "pass"."""
    names = {finding.name: finding for finding in quality.findings}
    if "black" in names and quality.face_share < 0.5:
        return "black"
    if quality.face_share < 0.5 or "noise" in names or likeness is None:
        return "noise"
    if quality.face_share < 0.95:
        return "no face"
    if likeness < _MIN_LIKENESS or "face_changed" in names:
        return "another face"
    if "frozen" in names:
        return "frozen"
    if any(
        finding.weight < 0.7 and finding.name not in ("still_mouth", "mouth", "lag") for finding in quality.findings
    ):
        return "broken"
    if quality.mouth_r is None or quality.mouth_r < _MIN_R or abs(quality.lag_ms or 0.0) > _MAX_LAG_MS:
        return "mouth"
    return "pass"


def _likeness(video: Path) -> float | None:
    """Median correlation of the upper face in eight frames with the portrait's; None if no frame has a face."""
    with Image.open(PORTRAIT) as portrait:
        wanted = _upper_face(np.asarray(portrait.convert("RGB"), np.uint8))
    indices = np.linspace(0, round(SECONDS * 25) - 1, _N_FRAMES).astype(int).tolist()
    with closing(read_video_frames(video, indices)) as frames:
        found = [face for frame in frames if (face := _upper_face(frame)) is not None]
    if wanted is None or not found:
        return None
    return round(float(np.median([mouth.correlation(wanted.ravel(), face.ravel()) for face in found])), 3)


def _upper_face(frame: Frames) -> NDArray[np.float64] | None:
    """Brightness of the face from the brows to the nose at a fixed place, size and angle: float64 (64, 64).

    The mouth is left out, because it moves. frame: uint8 RGB (H, W, 3). None without a face.
    """
    faces = landmarker().detect(frame, max_faces=1)
    if not faces:
        return None
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    moved = cv2.warpAffine(grey, _to_square(faces[0].points), (_SIDE_PX, _SIDE_PX))
    return cv2.GaussianBlur(moved, (0, 0), 1).astype(np.float64)


def _to_square(points: Points) -> NDArray[np.float64]:
    """The similarity transform, float64 (2, 3), that moves the eyes' outer corners to fixed places of the square."""
    left, right = points[33, :2].astype(float), points[263, :2].astype(float)
    across = right - left
    scale = 0.7 * _SIDE_PX / max(float(np.hypot(*across)), 1e-6)
    angle = -np.arctan2(across[1], across[0])
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    centre = np.array([0.5, 0.4]) * _SIDE_PX - turn @ ((left + right) / 2)
    return np.column_stack([turn, centre])


def lines_of(rendered: Rendered, verdict: Verdict) -> list[str]:
    """The lines of the report for a person. The first line is the verdict."""
    if verdict.expected_s is None:
        speed = "no figure is known for this card"
    else:
        speed = f"expected {verdict.expected_s:g} ({verdict.expected_from})"
    likeness = "no face" if verdict.likeness is None else f"{verdict.likeness:.2f} (from {_MIN_LIKENESS:g} on the same)"
    agreement = "not measured" if verdict.mouth_r is None else f"correlation {verdict.mouth_r:.2f} (from {_MIN_R:g} on)"
    lag = "" if verdict.lag_ms is None else f", lag {verdict.lag_ms:+.0f} ms"
    return [
        f"{verdict.word.upper()}: {verdict.sentence}",
        f"engine      {rendered.engine} {rendered.preset}".rstrip(),
        f"card        {rendered.card or cpu_name()}",
        f"face        in {verdict.face_share:.0%} of the frames; likeness {likeness}",
        f"mouth       {agreement}{lag}",
        f"speed       {verdict.seconds_per_second:.2f} seconds of work for a second of video; {speed}",
        *(f"finding     {each.from_s:.1f} to {each.to_s:.1f} s: {each.sentence}" for each in rendered.quality.findings),
        *(f"note        {warning}" for warning in rendered.warnings),
    ]


def write_report(path: Path, rendered: Rendered, verdict: Verdict) -> None:
    """Write the ZIP: report.txt, report.json, sheet.jpg and video.mp4."""
    facts = {
        "verdict": asdict(verdict),
        "engine": rendered.engine,
        "preset": rendered.preset,
        "card": rendered.card,
        "quality": asdict(rendered.quality),
        "warnings": rendered.warnings,
        "versions": dict(_versions(("lipsync-server", "torch", "triton", "numpy", "opencv-python-headless"))),
        "machine": {"cpu": cpu_name(), "cpus": usable_cpus(), "system": platform.system()},
    }
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("report.txt", "\n".join(lines_of(rendered, verdict)) + "\n")
        archive.writestr("report.json", json.dumps(facts, indent=2))
        archive.writestr("sheet.jpg", rendered.sheet)
        archive.writestr("video.mp4", rendered.video)
    write_file(path, lambda file: file.write(content.getvalue()))


def card_of_this_machine() -> str:
    """The name of the first GPU, "" without one."""
    found = gpus()
    return found[0].name if found else ""


def _versions(packages: Iterable[str]) -> Iterable[tuple[str, str]]:
    """Yield (name, version) of Python and of each installed package."""
    yield "python", platform.python_version()
    for name in packages:
        try:
            yield name, metadata.version(name)
        except metadata.PackageNotFoundError:
            if name == "lipsync-server":
                yield name, __version__
