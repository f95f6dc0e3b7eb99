"""Find better times for the phones of a corpus with a trained network, if the synthesizer's times are rough.

The method is forced alignment: the order of the phones is known, and the network's probabilities decide their borders.

    python align.py CORPUS.npz OUT.npz --weights ../../../weights/preview_mouth.npz

Moves the borders of the phones, keeps their order, and drops utterances that the network does not recognise.
"""

import argparse
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import corpus
import numpy as np
from espeak import Utterance
from lipsync_server.engines.preview import speech
from numpy.typing import NDArray
from phones import CLASSES, GRID_HZ, INDEX, Segment


def best_path(scores: NDArray[np.float64], optional: NDArray[np.bool_], least: int = 3) -> NDArray[np.int64]:
    """Return the state of every frame on the most probable path (Viterbi).

    The states pass in order, each for at least `least` frames. An optional state may be left out.

    scores: (frames, states) log probability of each frame in each state.
    """
    n, n_states = scores.shape
    # every state is a chain of `least` copies; only the last copy may repeat
    wide = np.repeat(scores, least, 1)
    total = np.full(n_states * least, -np.inf)
    total[0] = wide[0, 0]
    if optional[0] and n_states > 1:
        total[least] = wide[0, least]
    came = np.zeros((n, n_states * least), np.int64)
    index = np.arange(n_states * least)
    last, first = index % least == least - 1, index % least == 0
    skip_from = np.where(first & (index >= 2 * least), index - least - 1, -1)
    may_skip = (skip_from >= 0) & np.repeat(np.concatenate([[False], optional[:-1]]), least)
    for t in range(1, n):
        step = np.concatenate([[-np.inf], total[:-1]])
        stay = np.where(last, total, -np.inf)
        skip = np.where(may_skip, total[skip_from], -np.inf)
        options = np.stack([step, stay, skip])
        pick = options.argmax(0)
        came[t] = np.choose(pick, [index - 1, index, skip_from])
        total = options.max(0) + wide[t]
    ends = [n_states * least - 1] + ([(n_states - 1) * least - 1] if optional[-1] and n_states > 1 else [])
    state = max(ends, key=lambda e: total[e])
    path = np.empty(n, np.int64)
    for t in range(n - 1, -1, -1):
        path[t] = state // least
        state = came[t, state]
    return path


def log_posteriors(audio: NDArray[np.float32], networks: tuple[speech.Network, ...]) -> NDArray[np.float64]:
    n = len(audio) // 160
    features, _ = speech.normalise(speech.log_mel(audio, 0, n), speech.loud_level(audio))
    logits = speech.predict(features, networks)[:, 4:].astype(np.float64)
    logits -= logits.max(1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


def realign(
    source: corpus.Corpus, networks: tuple[speech.Network, ...], worst: float
) -> Iterator[tuple[str, Utterance]]:
    sil = INDEX["SIL"]
    for i in range(len(source)):
        audio = source.audio(i)
        classes = source.classes(i)
        order = classes[np.concatenate([[True], np.diff(classes) != 0])]
        order = np.concatenate([[sil], order[order != sil] if len(order) < 3 else order, [sil]])
        order = order[np.concatenate([[True], np.diff(order) != 0])]
        posteriors = log_posteriors(audio, networks)
        if len(posteriors) < 3 * len(order):
            continue
        path = best_path(np.maximum(posteriors[:, order], -7), order == sil)
        found = posteriors[np.arange(len(path)), order[path]]
        if found.mean() < worst:
            continue
        edges = np.concatenate([[0], np.flatnonzero(np.diff(path)) + 1, [len(path)]])
        segments = [
            Segment(CLASSES[order[path[a]]], a / GRID_HZ, b / GRID_HZ)
            for a, b in pairwise(edges)
            if order[path[a]] != sil
        ]
        yield str(source.tags[i]), Utterance(audio, segments)


if __name__ == "__main__":
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("corpus", type=Path)
    ap.add_argument("out", type=Path)
    ap.add_argument("--weights", type=Path, required=True)
    ap.add_argument("--worst", type=float, default=-3.0, help="drop utterances with a lower mean log probability")
    a = ap.parse_args()
    kept = corpus.write(a.out, realign(corpus.Corpus(a.corpus), speech.load_networks(a.weights), a.worst))
    print(kept, "utterances kept")
