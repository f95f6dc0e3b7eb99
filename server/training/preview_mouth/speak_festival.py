"""Speak a corpus with festival's voices and festival's phone times: seven languages, most voices cut from recordings.

    python speak_festival.py OUT.npz --minutes 40

Debian packages: festival, festvox-czech-*, festvox-italp16k, festvox-itapc16k, festvox-suopuhe-lj, festvox-suopuhe-mv,
festvox-ru, festvox-ca-ona-hts, festvox-us-slt-hts, festvox-kallpc16k, festvox-hi-nsk.
"""

import argparse
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import corpus
import numpy as np
import soundfile
import soxr
from espeak import Utterance
from phones import LIPS, Segment, from_arpabet, spread
from texts import sentences

# Per phone set: the names whose letters are also the name of another phone class, with their class; `None` is silence.
_SAMPA = {"a": ["A"], "e": ["EH"], "i": ["IY"], "o": ["O"], "u": ["UW"], "y": ["UE"], "E": ["EH"], "O": ["AO"],
          "2": ["OE"], "@": ["AX"],
          "ae": ["AE"], "oe": ["OE"], "ax": ["AX"], "h": ["HH"], "x": ["X"], "j": ["Y"], "J": ["N"], "L": ["L"],
          "c": ["TS"], "r": ["RR"],
          "ts": ["TS"], "dz": ["TS"], "dZ": ["JH"], "tS": ["CH"], "S": ["SH"], "Z": ["ZH"], "c~": ["CH"],
          "s~": ["SH"], "z~": ["ZH"],
          "r~": ["ZH"], "d~": ["D"], "t~": ["T"], "n~": ["N"], "n*": ["NG"], "N": ["NG"], "rr": ["RR"], "H": ["HW"],
          "B": ["B"], "G": ["G"],
          "ch": ["X"], "_": ["SIL"], "#": ["SIL"], "##": ["SIL"], "nf": ["N"], "pau": ["SIL"], "4": ["AE"],
          "d^": ["D"], "t^": ["T"], "D": ["DH"]}  # fmt: skip
_RUSSIAN = {"a": ["AA"], "aa": ["A"], "e": ["IH"], "ee": ["EH"], "i": ["IH"], "ii": ["IY"], "o": ["AH"], "oo": ["AO"],
            "u": ["UH"],
            "uu": ["UW"], "y": ["IX"], "yy": ["IX"], "ae": ["AX"], "ay": ["AX"], "ur": ["AX"], "ir": ["IX"],
            "j": ["Y"], "h": ["X"],
            "hh": ["X"], "c": ["TS"], "ch": ["CH"], "sh": ["SH"], "sch": ["SH"], "zh": ["ZH"], "r": ["RR"],
            "rr": ["RR"], "pau": ["SIL"]}  # fmt: skip
_INDIC = {"a": ["AH"], "aa": ["A"], "i": ["IH"], "ii": ["IY"], "u": ["UH"], "uu": ["UW"], "e": ["E"], "eh": ["E"],
          "ay": ["EH"], "o": ["O"], "oo": ["O"], "oh": ["O"], "ee": ["E"],
          "au": ["AO"], "th": ["T"], "dh": ["D"], "ph": ["P"], "bh": ["B"], "kh": ["K"], "gh": ["G"], "r": ["RR"],
          "c": ["CH"], "h": ["HH"],
          "j": ["JH"], "y": ["Y"], "v": ["V"], "pau": ["SIL"]}  # fmt: skip


@dataclass(frozen=True)
class Voice:
    name: str
    language: str
    encoding: str = "utf8"
    phones: dict[str, list[str]] = field(default_factory=dict)


VOICES = [
    Voice("czech_dita", "cs", "iso-8859-2", _SAMPA), Voice("czech_machac", "cs", "iso-8859-2", _SAMPA),
    Voice("czech_ph", "cs", "iso-8859-2", _SAMPA), Voice("czech_krb", "cs", "iso-8859-2", _SAMPA),
    Voice("lp_diphone", "it", "iso-8859-1", _SAMPA), Voice("pc_diphone", "it", "iso-8859-1", _SAMPA),
    Voice("suo_fi_lj_diphone", "fi", "iso-8859-1", _SAMPA), Voice("hy_fi_mv_diphone", "fi", "iso-8859-1", _SAMPA),
    Voice("msu_ru_nsh_clunits", "ru", "utf8", _RUSSIAN), Voice("upc_ca_ona_hts", "ca", "iso-8859-1", _SAMPA),
    Voice("cmu_us_slt_arctic_hts", "en-us"), Voice("kal_diphone", "en-us"),
    Voice("hindi_NSK_diphone", "hi", "utf8", _INDIC),
]  # fmt: skip
_SCHEME = """
(define (say text name)
  (let ((u (utt.synth (eval (list 'Utterance 'Text text)))))
    (utt.save.wave u (string-append name ".wav") 'riff)
    (utt.save.segs u (string-append name ".lab"))))
(voice_{voice})
"""


def classes_of(name: str, voice: Voice) -> list[str] | None:
    """Return the phone classes of a festival phone; None for an unknown name."""
    for key in (name, name.rstrip("1:"), name.rstrip("1:'^~*")):
        if key in voice.phones:
            return voice.phones[key]
    if voice.phones is _RUSSIAN and len(name) == 2 and name[0] == name[1]:
        return classes_of(name[0], voice)
    found = from_arpabet(name) or from_arpabet(name.rstrip("1:'^~*"))
    return found or None


def say(voice: Voice, texts: list[str], scratch: Path) -> Iterator[Utterance]:
    """Speak `texts`. A text that festival refuses, or that has an unknown phone, is left out."""
    program = scratch / "say.scm"
    lines = [
        f'(unwind-protect (say "{t}" "{scratch}/{k}"))'.encode(voice.encoding, "ignore") for k, t in enumerate(texts)
    ]
    program.write_bytes(_SCHEME.format(voice=voice.name).encode() + b"\n".join(lines))
    subprocess.run(["festival", "-b", str(program)], check=False, capture_output=True, timeout=300)
    for k in range(len(texts)):
        wav, lab = scratch / f"{k}.wav", scratch / f"{k}.lab"
        if not (wav.exists() and lab.exists()):
            continue
        segments: list[Segment] = []
        start, known = 0.0, True
        for line in lab.read_text("latin1").splitlines():
            parts = line.split()
            if len(parts) != 3:
                continue
            names = classes_of(parts[2], voice)
            known = known and names is not None and all(n in LIPS for n in names)
            segments += spread(names if names and known else [], start, float(parts[0]))
            start = float(parts[0])
        audio, rate = soundfile.read(wav, dtype="float32")
        wav.unlink(), lab.unlink()
        if known and len(audio) > rate:
            yield Utterance(soxr.resample(audio, rate, corpus.RATE_HZ).astype(np.float32), segments)


def speak(minutes: float, rng: np.random.Generator) -> Iterator[tuple[str, Utterance]]:
    sources = {v.name: sentences(v.language, rng) for v in VOICES}
    spoken_s = 0.0
    with tempfile.TemporaryDirectory() as scratch:
        while spoken_s < minutes * 60:
            for voice in VOICES:
                texts = [next(sources[voice.name]).replace('"', "").replace("\\", "") for _ in range(8)]
                for said in say(voice, texts, Path(scratch)):
                    spoken_s += len(said.audio) / corpus.RATE_HZ
                    yield f"festival/{voice.name}", said


if __name__ == "__main__":
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("out", type=Path)
    ap.add_argument("--minutes", type=float, default=40)
    ap.add_argument("--seed", type=int, default=4)
    a = ap.parse_args()
    n = corpus.write(a.out, speak(a.minutes, np.random.default_rng(a.seed)))
    print(n, "utterances")
