"""The visible label: in its corner, inside the safe area, and never over the mouth."""

from pathlib import Path

import numpy as np
import pytest
from lipsync_server import Lipsync
from lipsync_server.errors import InvalidInput
from lipsync_server.media.captions.fonts import Fonts
from lipsync_server.media.label import Label
from lipsync_server.paths import SAMPLES_DIR
from material import make_recording, read_frames, small_portrait

GREY = np.full((2, 360, 640, 3), 120, np.uint8)
TALL = np.full((1, 640, 360, 3), 120, np.uint8)


def drawn(frames: np.ndarray, corner: str, mouth: tuple[float, float, float, float] | None = None) -> tuple[int, ...]:
    """The box of the pixels that the label changed: left, top, right, bottom."""
    height, width = frames.shape[1:3]
    out = Label("AI generated", corner, width, height, Fonts(), mouth).draw_on(frames)
    assert np.array_equal(out[0], out[-1])
    rows, columns = np.nonzero((out[0] != frames[0]).any(axis=2))
    return int(columns.min()), int(rows.min()), int(columns.max()), int(rows.max())


@pytest.mark.parametrize("corner", ["top-left", "top-right", "bottom-left", "bottom-right"])
def test_the_label_lies_in_its_corner_and_is_small(corner: str) -> None:
    left, top, right, bottom = drawn(GREY, corner)
    assert (left < 320) == corner.endswith("left") and (top < 180) == corner.startswith("top")
    assert right - left < 0.3 * 640 and bottom - top < 0.1 * 360
    assert left > 0 and top > 0 and right < 639 and bottom < 359


def test_a_label_of_vertical_video_stays_clear_of_app_buttons() -> None:
    assert drawn(TALL, "top-left")[1] >= 0.1 * 640
    assert drawn(TALL, "bottom-left")[3] <= 0.8 * 640


def test_a_label_never_covers_the_mouth() -> None:
    left, top, _, _ = drawn(GREY, "top-left", mouth=(0.0, 0.0, 0.4, 0.4))
    assert left > 0.4 * 640 or top > 0.4 * 360


def test_the_frames_of_the_engine_stay_as_they_are() -> None:
    before = GREY.copy()
    Label("AI", "top-left", 640, 360, Fonts()).draw_on(GREY)
    assert np.array_equal(GREY, before)


def test_a_rendered_video_shows_its_label_in_every_frame(tmp_path: Path) -> None:
    portrait, speech = small_portrait(tmp_path), make_recording(tmp_path, 0.4)
    with Lipsync("preview", mark=False) as engine:
        for name, label in (("plain", ""), ("labelled", "AI generated")):
            engine.render(portrait, speech, tmp_path / f"{name}.mp4", label=label)
    plain, labelled = read_frames(tmp_path / "plain.mp4"), read_frames(tmp_path / "labelled.mp4")
    height, width = plain.shape[1:3]
    corner = np.abs(labelled.astype(int) - plain)[:, : height // 8, : width // 2]
    assert (corner.max(axis=(1, 2, 3)) > 60).all()


def test_a_label_that_cannot_be_drawn_is_refused_before_the_render(tmp_path: Path) -> None:
    speech = make_recording(tmp_path, 0.4)
    with Lipsync("preview") as engine:
        for label, says in (("x" * 61, "60 characters"), ("\U000f0000", "install a font")):
            with pytest.raises(InvalidInput, match=says) as raised:
                engine.render(SAMPLES_DIR / "portrait.jpg", speech, tmp_path / "a.mp4", label=label)
            assert raised.value.field == "label"
