"""The result of a check as plain data: a score, findings with times, and the figures behind them.

Imports no large library, because the HTTP server and the command line show these results too.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One fault that a viewer would notice. name: a stable word for programs. sentence: for people.

    weight: the factor of the score: 1 for a remark, 0 for a fault that makes the video useless.
    """

    name: str
    from_s: float
    to_s: float
    sentence: str
    weight: float = 1.0


@dataclass(frozen=True)
class Quality:
    """The quality of one video.

    score: 0 (unusable) to 1; None if the check cannot judge, and then a finding gives the reason.
    mouth_r: correlation of the mouth with the opening that a network predicts from the sound, None if unknown. lag_ms:
    positive for a mouth that is late. closures: share of the expected closures of the lips that the video has.
    face_share: share of the frames with a face. cost_s: seconds that the check took.
    """

    score: float | None
    findings: tuple[Finding, ...] = ()
    mouth_r: float | None = None
    lag_ms: float | None = None
    closures: float | None = None
    face_share: float = 0.0
    cost_s: float = 0.0


def sentences(quality: Quality) -> list[str]:
    """The score and the findings as lines for a person."""
    score = "no score" if quality.score is None else f"score {quality.score:.2f}"
    head = [f"{score}, a face in {quality.face_share:.0%} of the frames"]
    if quality.mouth_r is not None:
        head.append(f"mouth and sound: correlation {quality.mouth_r:.2f}")
    if quality.lag_ms is not None:
        head.append(f"lag {quality.lag_ms:+.0f} ms")
    return [", ".join(head), *(f"{f.from_s:.1f} to {f.to_s:.1f} s: {f.sentence}" for f in quality.findings)]
