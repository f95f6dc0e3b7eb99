"""Make the sheets of eyes and mouths, enlarged: how the preview engine shuts eyes and shapes mouths.

    python docs/contact-sheets/eyes_and_mouths.py                     # the portraits of this folder
    python docs/contact-sheets/eyes_and_mouths.py FOLDER OUTPUT       # every picture in FOLDER, sheets into OUTPUT

A row of eyes.jpg shows one portrait's eyes open, a third, two thirds and completely shut; a row whose eyes the engine
leaves open says so. A row of mouths.jpg shows the portrait's own mouth, then shut, three openings, spread and rounded.
Run it on two versions of the engine to compare them.
"""

import sys
from pathlib import Path

import cv2
import numpy as np
from lipsync_server.engines.base import Frames
from lipsync_server.engines.landmarks import Face, FaceLandmarker
from lipsync_server.engines.preview import blink_check, head
from lipsync_server.engines.preview.calibration import calibrate
from lipsync_server.engines.preview.engine import fit_picture
from lipsync_server.engines.preview.mesh import FaceFrame
from lipsync_server.engines.preview.mouth import MouthPose
from lipsync_server.engines.preview.puppet import Pose, Puppet
from lipsync_server.media.picture.still import load_image
from lipsync_server.paths import SAMPLES_DIR
from PIL import Image

HERE = Path(__file__).resolve().parent
EYES_PX, MOUTH_PX = (300, 130), (200, 150)
N_ROWS = 10
STILL = np.zeros(len(head.BASES), np.float32)
SHUT = MouthPose(open=0.0, close=1.0, spread=0.0, narrow=0.0, press=0.0)
# Opening, spread, rounding, tongue.
SHAPES = (
    (0.0, 0.0, 0.0, 0.0), (0.3, 0.0, 0.0, 0.0), (0.6, 0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0), (0.5, 0.9, 0.0, 0.0),
    (0.45, 0.0, 0.9, 0.0), (0.8, 0.0, 0.0, 1.0),
)  # fmt: skip


def cut(picture: Frames, frame: FaceFrame, middle: np.ndarray, half: float, size_px: tuple[int, int]) -> Frames:
    """An upright part of `picture` around `middle`. half: half of its width in face heights."""
    axes = np.array([frame.right, frame.down]) * size_px[0] / (2 * half * frame.height)
    matrix = np.column_stack([axes, np.array(size_px) / 2 - axes @ middle])
    flags, border = cv2.INTER_CUBIC, cv2.BORDER_REPLICATE
    return np.asarray(cv2.warpAffine(picture, matrix, size_px, flags=flags, borderMode=border), np.uint8)


def titled(cells: list[Frames], title: str) -> Frames:
    row = np.hstack(cells)
    cv2.putText(row, title, (4, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (255, 255, 0), 1, cv2.LINE_AA)
    return row


def rows(picture: Frames, face: Face, landmarker: FaceLandmarker, name: str) -> tuple[Frames, Frames]:
    """The row of eyes and the row of mouths of one portrait."""
    puppet = Puppet(picture, face)
    calibration = calibrate(puppet, landmarker, face)
    reason = blink_check.why_not(puppet, landmarker, face)
    frame = puppet.frame

    def drawn(pose: Pose) -> Frames:
        out = picture.copy()
        puppet.draw(pose, out)
        return out

    eyes = face.points[[33, 133, 362, 263], :2].mean(axis=0).astype(np.float64)
    steps = (0.0, 0.33, 0.67, 1.0) if reason is None else (0.0,)
    lids = [cut(drawn(Pose(SHUT, STILL, (step, step))), frame, eyes, 0.32, EYES_PX) for step in steps]
    lids += [np.full_like(lids[0], 235)] * (4 - len(lids))
    poses = [
        Pose(MouthPose(opening, 1.0, spread, narrow, 0.0, tongue), STILL) for opening, spread, narrow, tongue in SHAPES
    ]
    shown = [picture, *(drawn(calibration.apply(pose)) for pose in poses)]
    middle = frame.origin + 0.03 * frame.height * frame.down
    title = name if reason is None else f"{name}: open, {reason}"
    return titled(lids, title), titled([cut(f, frame, middle, 0.24, MOUTH_PX) for f in shown], name)


def main() -> None:
    folder, output = (Path(a) for a in sys.argv[1:3]) if len(sys.argv) == 3 else (HERE / "portraits", HERE)
    pictures = sorted(p for p in folder.iterdir() if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
    landmarker = FaceLandmarker()
    sheets: dict[str, list[Frames]] = {"eyes": [], "mouths": []}
    for path in [SAMPLES_DIR / "portrait.jpg", *pictures]:
        picture = fit_picture(load_image(path, max_pixels=64_000_000))[0]
        faces = landmarker.detect(picture)
        if faces:
            made = rows(picture, max(faces, key=lambda f: f.area), landmarker, path.stem)
            for sheet, row in zip(sheets.values(), made, strict=True):
                sheet.append(row)
    for name, parts in sheets.items():
        for first in range(0, len(parts), N_ROWS):
            number = f"-{first // N_ROWS + 1}" if len(parts) > N_ROWS else ""
            sheet = np.vstack(parts[first : first + N_ROWS])
            Image.fromarray(sheet).save(output / f"{name}{number}.jpg", quality=85, optimize=True)


if __name__ == "__main__":
    main()
