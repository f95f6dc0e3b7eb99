"""Make tests/data/preview/filmed_lips.npz: the networks' outputs and the measured lips of five clips.

    python make_test_lips.py RECORDINGS OUT.npz --weights ../../../weights/preview_mouth.npz

RECORDINGS is the folder that fit_readout.py reads. The file holds numbers, no picture and no sound.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from fit_readout import read_sound
from lipsync_server.engines.preview import speech
from lipsync_server.engines.preview.readout import evidence_of

# This speaker has 56 clips; the others, with one or two, are enough for the tests.
LONG_SPEAKER = "grid-s01"

if __name__ == "__main__":
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("recordings", type=Path)
    ap.add_argument("out", type=Path)
    ap.add_argument("--weights", type=Path, required=True)
    a = ap.parse_args()
    networks = speech.load_networks(a.weights)
    arrays = {}
    with np.load(a.recordings / "curves.npz", allow_pickle=False) as curves:
        for row in json.loads((a.recordings / "split.json").read_text())["clips"]:
            if row["speaker"] == LONG_SPEAKER:
                continue
            sound = read_sound(a.recordings / "clips" / f"{row['clip']}.mp4")
            n_steps = len(sound) * speech.GRID_HZ // speech.SPEECH_RATE_HZ + 1
            features, _ = speech.normalise(speech.log_mel(sound, 0, n_steps), speech.loud_level(sound))
            evidence, gap = evidence_of(speech.predict(features, networks)), curves[f"{row['clip']}/opening"]
            n = min(len(evidence), len(gap))
            name = row["clip"].split("_", 1)[1]
            arrays[f"{name}/evidence"] = evidence[:n].astype(np.float16)
            arrays[f"{name}/opening"] = gap[:n].astype(np.float16)
    np.savez_compressed(a.out, **arrays)
