"""Draw flashhead-paste-back.jpg: how FlashHead's square goes back into pictures of five formats.

Random weights make noise, so the square here is the still picture under synthetic motion: it sways, nods, turns and
zooms as a whole, shoulders and background too, and is smoothed and lit a little as a model's frames are. Each row:
three moments with everything on, then the same three with a soft edge alone.

    python docs/contact-sheets/flashhead.py
"""

from pathlib import Path

import cv2
import numpy as np
import torch
from lipsync_server.engines.flashhead.video.face_crop import crop_for
from lipsync_server.engines.flashhead.video.paste_back import PasteBack
from lipsync_server.engines.landmarks import FaceLandmarker, choose_face
from PIL import Image

HERE = Path(__file__).parent
# Portrait and the part of it that is taken: left, top, right, bottom as shares.
CASES = (
    ("beard-and-full-figure.jpg", (0.0, 0.0, 1.0, 1.0)),
    ("several-people.jpg", (0.0, 0.0, 1.0, 0.7)),
    ("glasses.jpg", (0.0, 0.0, 1.0, 1.0)),
    ("glasses.jpg", (0.0, 0.0, 1.0, 0.62)),
    ("elder.jpg", (0.0, 0.0, 1.0, 1.0)),
)
MOMENTS = (0.0, 1.2, 2.6)
ROW_PX = 360


def moved(square: np.ndarray, t: float) -> np.ndarray:
    """The square at moment t of a synthetic motion."""
    side = square.shape[0]
    turn = cv2.getRotationMatrix2D((side / 2, side * 0.55), 3 * np.sin(1.7 * t), 1 + 0.03 * np.sin(1.1 * t))
    turn[:, 2] += (0.035 * side * np.sin(t), 0.03 * side * np.sin(1.3 * t + 1))
    out = cv2.bilateralFilter(cv2.warpAffine(square, turn, (side, side), borderMode=cv2.BORDER_REFLECT), 7, 12, 5)
    return np.clip(out.astype(np.float32) * 1.02 + 3 * np.sin(0.7 * t), 0, 255).astype(np.uint8)


def row(name: str, part: tuple[float, float, float, float], landmarker: FaceLandmarker) -> np.ndarray:
    """Six frames beside each other."""
    whole = Image.open(HERE / "portraits" / name).convert("RGB")
    box = tuple(round(share * side) for share, side in zip(part, (*whole.size, *whole.size), strict=True))
    picture = np.asarray(whole.crop(box))
    crop = crop_for(choose_face(landmarker.detect(picture)), picture)
    square = crop.cut(picture)
    tiles = []
    for everything in (True, False):
        paste = PasteBack(picture, crop, square, torch.device("cpu"), follow_border=everything, grain=everything)
        for t in MOMENTS:
            frame = paste(torch.from_numpy(moved(square, t)).permute(2, 0, 1)[None].float() / 255)[0]
            width = round(frame.shape[1] * ROW_PX / frame.shape[0])
            tiles.append(cv2.resize(frame, (width, ROW_PX), interpolation=cv2.INTER_AREA))
    return np.concatenate(tiles, axis=1)


landmarker = FaceLandmarker()
rows = [row(name, part, landmarker) for name, part in CASES]
widest = max(one.shape[1] for one in rows)
padded = [np.pad(one, ((0, 6), (0, widest - one.shape[1]), (0, 0)), constant_values=255) for one in rows]
Image.fromarray(np.concatenate(padded)).save(HERE / "flashhead-paste-back.jpg", quality=82)
