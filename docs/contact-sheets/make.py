"""Make the contact sheets: frames of the preview engine for every portrait in portraits/, and for the sample one.

    python docs/contact-sheets/make.py

Each sheet shows the sample recording's moments in which the mouth is widest, most shut, roundest and so on: above the
portrait, below its mouth enlarged. The first column is the portrait itself.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
from lipsync_server.engines.base import Frames, RenderRequest
from lipsync_server.engines.landmarks import FaceLandmarker, choose_face
from lipsync_server.engines.preview.engine import PreviewEngine
from lipsync_server.engines.preview.mesh import FaceFrame
from lipsync_server.engines.preview.options import Options
from lipsync_server.engines.preview.speech import mouth_track
from lipsync_server.media.picture.still import load_image
from lipsync_server.media.sound.speech import map_speech, write_speech
from lipsync_server.paths import SAMPLES_DIR
from PIL import Image

HERE = Path(__file__).resolve().parent
CELL_PX = 220
N_COLUMNS = 9
# Which face of a picture with several, counted from the left.
FACE_INDEX = {"child": 0}


class _Quiet:
    """A render context that drops progress and warnings, and is never cancelled."""

    scratch = HERE
    resume_point = None

    def progress(self, stage: str, done: float, total: float, note: str = "") -> None: ...
    def cancelled(self) -> bool:
        return False

    def warn(self, message: str) -> None: ...
    def save(self, state: object) -> None: ...


def moments(track: np.ndarray) -> list[int]:
    """Frames worth showing: shut, widest, roundest, spread, pressed, and some of even openings between."""
    opening, width = track[:, 0], track[:, 1]
    chosen = [int(opening.argmax()), int((width * (opening > 0.25)).argmin()), int((width * (opening > 0.25)).argmax())]
    chosen.append(int((track[:, 2] - opening).argmax()))
    for quantile in (0.5, 0.65, 0.8, 0.92):
        wanted = np.quantile(opening, quantile)
        away = np.abs(opening - wanted) + 10.0 * np.isin(np.arange(len(opening)), chosen)
        chosen.append(int(away.argmin()))
    return sorted(set(chosen))[: N_COLUMNS - 1]


def cut(frame: Frames, middle: np.ndarray, reach: float) -> Frames:
    """A square of `frame` around `middle`, CELL_PX wide."""
    scale = CELL_PX / (2 * reach)
    if scale < 0.5:
        step = int(1 / scale)
        frame = np.asarray(cv2.resize(frame, None, fx=1 / step, fy=1 / step, interpolation=cv2.INTER_AREA), np.uint8)
        scale, middle = scale * step, middle / step
    matrix = np.array([[scale, 0, CELL_PX / 2 - middle[0] * scale], [0, scale, CELL_PX / 2 - middle[1] * scale]])
    cell = cv2.warpAffine(frame, matrix, (CELL_PX, CELL_PX), flags=cv2.INTER_CUBIC, borderValue=(235, 235, 235))
    return np.asarray(cell, np.uint8)


def sheet(portrait: Path, engine: PreviewEngine, landmarker: FaceLandmarker, scratch: Path) -> Frames:
    picture = load_image(portrait, max_pixels=64_000_000)
    picture = np.ascontiguousarray(picture[: picture.shape[0] // 2 * 2, : picture.shape[1] // 2 * 2])
    options = Options(face_index=FACE_INDEX.get(portrait.stem))
    file = write_speech(SAMPLES_DIR / "speech.wav", scratch, max_s=60)
    speech = map_speech(file)
    job = RenderRequest(picture, speech, file.duration_s, options)
    wanted = moments(mouth_track(speech, job.n_frames))
    shown = [picture]
    start = 0
    for batch in engine.generate(job, _Quiet()):
        shown += [batch[i - start].copy() for i in wanted if start <= i < start + len(batch)]
        start += len(batch)
    face = choose_face(landmarker.detect(picture), face_index=options.face_index)
    frame = FaceFrame.of(face.points)
    middle = face.points[[10, 152], :2].mean(axis=0)
    mouth = frame.origin + 0.03 * frame.height * frame.down
    reach = min(0.85 * frame.height, 0.5 * max(picture.shape[:2]))
    columns = [np.vstack([cut(f, middle, reach), cut(f, mouth, 0.25 * frame.height)]) for f in shown]
    return np.hstack(columns)


def main() -> None:
    engine, landmarker = PreviewEngine(), FaceLandmarker()
    with TemporaryDirectory() as scratch:
        for portrait in [SAMPLES_DIR / "portrait.jpg", *sorted((HERE / "portraits").glob("*.jpg"))]:
            name = "parted-lips" if portrait.parent == SAMPLES_DIR else portrait.stem
            frames = sheet(portrait, engine, landmarker, Path(scratch))
            Image.fromarray(frames).save(HERE / f"{name}.jpg", quality=85, optimize=True)


if __name__ == "__main__":
    main()
