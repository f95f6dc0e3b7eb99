"""Burned captions are readable: in any writing, in the right order, in the right place, for the right time."""

from pathlib import Path

import numpy as np
import pytest
from lipsync_server.errors import InvalidInput
from lipsync_server.media.captions.burn import BurnedCaptions, _visual_order
from lipsync_server.media.captions.fonts import Fonts
from lipsync_server.media.captions.script import words_of
from lipsync_server.media.captions.wishes import CaptionStyle
from lipsync_server.media.info import HeardWord
from lipsync_server.media_types import Frames

GREY = 90
STYLES: tuple[CaptionStyle, ...] = ("plain", "box", "words")


def spoken(text: str, *, each_s: float = 0.4) -> list[HeardWord]:
    words = enumerate(words_of(text))
    return [HeardWord(word.text, word.blank_before, i * each_s, (i + 1) * each_s) for i, word in words]


def frames(n: int = 1, width: int = 360, height: int = 640) -> Frames:
    return np.full((n, height, width, 3), GREY, np.uint8)


def rows_drawn(frame: Frames) -> tuple[int, int]:
    rows = np.flatnonzero((frame != GREY).any(axis=(1, 2)))
    return int(rows[0]), int(rows[-1])


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(
    "text", ["Olá, São João!", "مرحبا بكم", "שלום לכולם", "Здравствуйте", "こんにちは世界", "Well done 😀 🇧🇷 👨‍👩‍👧"]
)
def test_every_writing_system_is_drawn(style: CaptionStyle, text: str) -> None:
    captions = BurnedCaptions(spoken(text), style, 640, 360, Fonts())
    drawn = captions.draw_on(frames(width=640, height=360), 5, 25)[0]
    top, bottom = rows_drawn(drawn)
    assert bottom - top >= 14
    assert drawn.max() == 255


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(("width", "height"), [(360, 640), (640, 360), (256, 256)])
def test_a_long_caption_stays_inside_the_frame(style: CaptionStyle, width: int, height: int) -> None:
    text = "Donaudampfschifffahrtsgesellschaftskapitän and many other words to read"
    captions = BurnedCaptions(spoken(text), style, width, height, Fonts())
    for first in range(0, 80, 10):
        drawn = captions.draw_on(frames(width=width, height=height), first, 25)
        assert drawn.shape == (1, height, width, 3)
        columns = np.flatnonzero((drawn[0] != GREY).any(axis=(0, 2)))
        assert columns[0] > 0.02 * width
        assert columns[-1] < 0.98 * width


@pytest.mark.parametrize("mouth_top", [0.1, 0.3, 0.5, 0.7, 0.85])
@pytest.mark.parametrize("style", STYLES)
def test_no_caption_covers_the_mouth(style: CaptionStyle, mouth_top: float) -> None:
    mouth = (0.3, mouth_top, 0.7, mouth_top + 0.1)
    captions = BurnedCaptions(spoken("Some words that are shown here"), style, 360, 640, Fonts(), mouth)
    top, bottom = rows_drawn(captions.draw_on(frames(), 10, 25)[0])
    assert bottom < mouth_top * 640 or top > (mouth_top + 0.1) * 640


def test_captions_of_vertical_video_stay_clear_of_app_buttons() -> None:
    captions = BurnedCaptions(spoken("Some words"), "words", 360, 640, Fonts())
    top, bottom = rows_drawn(captions.draw_on(frames(), 10, 25)[0])
    assert top > 0.5 * 640
    assert bottom < 0.8 * 640


def test_captions_show_from_the_first_word_to_the_last_and_change_no_other_frame() -> None:
    words = [HeardWord("one", True, 1.0, 1.4), HeardWord("two", True, 1.4, 1.8)]
    captions = BurnedCaptions(words, "plain", 360, 640, Fonts())
    batch = frames(75)
    drawn = captions.draw_on(batch, 0, 25)
    changed = np.flatnonzero((drawn != GREY).any(axis=(1, 2, 3)))
    assert changed[0] == 25
    assert changed[-1] == pytest.approx(25 * 2.2, abs=2)
    assert (batch == GREY).all(), "the engine's own frames were written to"
    assert captions.draw_on(frames(5), 0, 25).base is None


def test_a_resumed_render_draws_the_same_captions() -> None:
    text = "These words are drawn into every frame in which they are heard"
    whole = BurnedCaptions(spoken(text), "words", 360, 640, Fonts()).draw_on(frames(50), 0, 25)
    later = BurnedCaptions(spoken(text), "words", 360, 640, Fonts()).draw_on(frames(20), 30, 25)
    assert np.array_equal(whole[30:], later)


def test_the_spoken_word_is_highlighted_and_no_other() -> None:
    captions = BurnedCaptions(spoken("left right", each_s=1.0), "words", 360, 640, Fonts())

    def yellow_columns(second: float) -> np.ndarray:
        frame = captions.draw_on(frames(), round(second * 25), 25)[0].astype(int)
        return np.flatnonzero(((frame[..., 0] > 200) & (frame[..., 2] < 80)).any(axis=0))

    assert yellow_columns(0.5).max() < yellow_columns(1.5).min()


def test_words_from_right_to_left_stand_in_their_order_of_reading() -> None:
    line = spoken("אחת שתיים Lipsync server שלוש")
    assert [word.text for word in _visual_order(line)] == ["שלוש", "Lipsync", "server", "שתיים", "אחת"]
    line = spoken("say אחת שתיים now")
    assert [word.text for word in _visual_order(line)] == ["say", "שתיים", "אחת", "now"]


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("much ❤️", ["letters", "picture"]),
        ("1️⃣ ☺️", ["picture"]),
        ("مرحبا🎉", ["letters", "picture"]),
        ("Acme™ ©", ["letters"]),
        ("❤\ufe0e", ["letters"]),
    ],
)
def test_emoji_are_pictures_and_signs_are_letters_beside_any_text(text: str, kinds: list[str]) -> None:
    found = [
        "picture" if any(name in file.path.stem.lower() for name in ("emoji", "symbola")) else "letters"
        for _, file in Fonts().runs(text)
    ]
    assert found == kinds


def test_letters_without_a_font_are_named_with_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"No font .*'\U000e0100?.*|PRIVATE|unknown letter") as refused:
        Fonts(tmp_path).runs("a\ue123b")
    assert "fonts-noto" in refused.value.detail
    assert "captions=track" in refused.value.detail


def test_a_broken_font_file_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "Broken-Bold.ttf").write_bytes(b"no font at all" * 100)
    (tmp_path / "Broken.ttc").write_bytes(b"ttcf\x00\x01")
    assert Fonts(tmp_path).runs("word")[0][0] == "word"
