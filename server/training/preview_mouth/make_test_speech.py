"""Make the small recordings with known phone times that tests/engines/preview/test_speech.py uses.

python make_test_speech.py ../../../tests/data/preview
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile
from espeak import RATE_HZ, Espeak, Utterance
from speak_flite import say

ENGLISH = "Please help my puppy, mama. Bob may bump a big map. Papa, open the box!"
WITH_TH = "Both of them thought that these three things are worth nothing. Then they breathe with their teeth."
GERMAN = "Mama malt im Zimmer ein Bild mit Bäumen. Bitte bleib am Abend bei Papa und Emma."


def store(folder: Path, name: str, said: Utterance) -> None:
    soundfile.write(folder / f"{name}.ogg", said.audio / np.abs(said.audio).max() * 0.6, RATE_HZ)
    phones = [[s.name, round(s.start_s, 3), round(s.end_s, 3)] for s in said.segments]
    (folder / f"{name}.json").write_text(json.dumps({"phones": phones}) + "\n")


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        store(target, "speech_en", say(ENGLISH, "slt", 1.1, 190, Path(scratch)))
        store(target, "speech_th", say(WITH_TH, "slt", 1.1, 190, Path(scratch)))
    german = Espeak().say(GERMAN, "de+f3", words_per_minute=140)
    if german is None:
        raise SystemExit("espeak-ng has no German voice; install espeak-ng-data")
    store(target, "speech_de", german)
