"""Draw captions.jpg: burned captions over five pictures, in each style, in several writing systems.

Columns: vertical video with large words, a dark box, outlined text, and the picture's own shape with right-to-left
writing and with emoji. Rows use different languages. The mouth is opened as far as an open vowel would, in the third
column, because captions must not cover it then. Needs the fonts that docs/captions.md names.

    python docs/contact-sheets/captions.py [FOLDER]

FOLDER, here by default, gets the sheet.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
from lipsync_server.engines.ask import Ask
from lipsync_server.engines.base import EngineOptions, RenderRequest
from lipsync_server.media.captions.script import words_of
from lipsync_server.media.captions.wishes import CaptionStyle
from lipsync_server.media.framing.wishes import VideoFormat
from lipsync_server.media.info import HeardScript, HeardWord
from lipsync_server.workers.rendering.captions import VideoCaptions
from lipsync_server.workers.rendering.framing import VideoFraming
from PIL import Image

HERE = Path(__file__).parent
PICTURES = ("glasses.jpg", "beard-and-full-figure.jpg", "several-people.jpg", "elder.jpg", "young-man.jpg")
LATIN = (
    "Hello! I used to be a still picture, but now I can say whatever you like.",
    "Olá! Eu era só uma imagem parada, mas agora posso dizer o que você quiser.",
    "Grüß Gott! Früher war ich ein Standbild, heute überrasche ich Donaudampfschifffahrtsgesellschaften.",
    "Xin chào! Tôi từng là một bức ảnh tĩnh, nhưng bây giờ tôi có thể nói.",
    "Привет! Раньше я был неподвижной картинкой, а теперь говорю.",
)
OTHERS = (
    "مرحبا! كنت صورة ثابتة، والآن أستطيع أن أقول كل شيء.",
    "你好！我以前只是一张静止的图片，现在我能说出你想听的任何话。",
    "שלום! פעם הייתי תמונה, ועכשיו אני יכול לדבר עם כולם.",
    "नमस्ते! मैं पहले एक स्थिर चित्र था, अब मैं बोल सकता हूँ।",
    "こんにちは！写真だった私が、いまは話せます。한국어도 됩니다.",
)
EMOJI = "Thank you 🙏🏽 for watching 🎉 my very first video ❤️ from Brasil 🇧🇷"
COLUMNS: tuple[tuple[CaptionStyle, VideoFormat, tuple[str, ...]], ...] = (
    ("words", "9:16", LATIN),
    ("box", "9:16", OTHERS),
    ("plain", "1:1", LATIN),
    ("plain", "original", OTHERS),
    ("words", "original", (EMOJI,) * len(PICTURES)),
)
ROW_PX = 360
HEIGHT_PX = 720
WORD_S = 0.4
AT_S = 1.3
FPS = 25


def captioned(picture: np.ndarray, style: CaptionStyle, wanted: VideoFormat, script: str, folder: Path) -> Image.Image:
    """The frame at AT_S of a still video of `picture` with burned captions."""
    ask = Ask(script=script, captions="burned", caption_style=style, format=wanted, height=HEIGHT_PX)
    framing = VideoFraming(ask, print)
    request = framing.cut(RenderRequest(picture, np.zeros(16_000, np.float32), 1.0, EngineOptions()))
    frames = framing.fit(request.picture[None])
    words = tuple(
        HeardWord(word.text, word.blank_before, WORD_S * i, WORD_S * (i + 1)) for i, word in enumerate(words_of(script))
    )
    captions = VideoCaptions(ask, HeardScript(words, "en", True), None, print)
    (folder / "mouth.json").unlink(missing_ok=True)
    captions.draw_on(frames.copy(), 0, FPS, folder)
    return Image.fromarray(captions.draw_on(frames.copy(), round(AT_S * FPS), FPS, folder)[0])


def main() -> None:
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for number, name in enumerate(PICTURES):
            picture = np.asarray(Image.open(HERE / "portraits" / name).convert("RGB"))
            shown = [
                captioned(picture, style, wanted, scripts[number], Path(scratch)) for style, wanted, scripts in COLUMNS
            ]
            rows.append([one.resize((round(one.width * ROW_PX / one.height), ROW_PX)) for one in shown])
    gap = 6
    widths = [max(row[column].width for row in rows) for column in range(len(COLUMNS))]
    sheet = Image.new("RGB", (sum(widths) + gap * len(widths), (ROW_PX + gap) * len(rows)), "white")
    for y, row in enumerate(rows):
        for column, one in enumerate(row):
            sheet.paste(one, (sum(widths[:column]) + gap * column, y * (ROW_PX + gap)))
    sheet.save(target / "captions.jpg", quality=82)


if __name__ == "__main__":
    main()
