"""The promises of the picture that frames are sampled from: exact where nothing moves, and sharp between pixels."""

import cv2
import numpy as np
import pytest
from lipsync_server.engines.base import Frames
from lipsync_server.engines.preview.fields import nodes
from lipsync_server.engines.preview.fine_picture import FinePicture


@pytest.mark.parametrize("size_px", [200, 900])
def test_a_pixel_that_does_not_move_keeps_its_value(size_px: int) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (size_px, size_px + 30, 3)).astype(np.uint8)
    fine = FinePicture(picture, 10, 20, size_px, size_px - 5)
    places = nodes(size_px - 25, size_px - 10) + np.array([10, 20], np.float32)
    assert np.array_equal(fine.sample(places), picture[20 : size_px - 5, 10:size_px])


@pytest.mark.parametrize("shift_px", [0.25, 0.5, 0.7])
def test_a_moved_picture_is_nearly_as_sharp_as_with_cubic_interpolation(portrait: Frames, shift_px: float) -> None:
    height, width = portrait.shape[:2]
    places = nodes(height, width) + np.float32(shift_px)
    ours = FinePicture(portrait, 0, 0, width, height).sample(places)
    cubic = cv2.remap(portrait, places[..., 0], places[..., 1], cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)

    def detail(frame: np.ndarray) -> float:
        grey = cv2.cvtColor(np.asarray(frame, np.uint8), cv2.COLOR_RGB2GRAY).astype(np.float32)
        return float(np.std(grey - cv2.GaussianBlur(grey, (0, 0), 1.2)))

    assert detail(ours) > 0.95 * detail(np.asarray(cubic))
