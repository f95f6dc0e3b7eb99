"""The opening of the mouth from the networks' outputs: one linear step, fitted on people who were filmed while talking.

The networks (speech.py) learned from synthetic speech, for which a table of phones (speech sounds) gave the lips. Real
lips move earlier, later and less than the table. This step combines the outputs within 100 ms to both sides into an
opening on the scale of real mouths. server/training/preview_mouth/fit_readout.py fits its 371 weights. Knows numpy and
no sound.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

# The columns of the networks' output; every column from FIRST_PHONE on is the logit of one class of phones.
OPENING: Final = 0
WIDTH: Final = 1
PRESS: Final = 2
SPEAKING: Final = 3
FIRST_PHONE: Final = 4
TONGUE_TIP: Final = {"N": 36, "TH": 37, "DH": 38, "L": 39}
"""The classes of phones in which the tongue's tip is seen at the upper teeth, with their places among the classes."""
LIKE_TH: Final = {"F": 22, "V": 23, "S": 27, "Z": 28}
"""The classes of phones that sound like th, with their places among the classes."""


@dataclass(frozen=True)
class Readout:
    """A linear step over a few moments in time.

    opening(t) = bias + sum over offsets of weights[offset] . evidence(t + offset)

    offsets: in steps of 10 ms. weights: float32 (len(offsets), n_outputs).
    """

    offsets: tuple[int, ...]
    weights: Array
    bias: float

    def __call__(self, evidence: Array) -> Array:
        """The opening, float32 (n,): about 0 for shut lips and 1 for a wide vowel. evidence: float32 (n, n_outputs)."""
        parts = evidence @ self.weights.T
        steps = np.arange(len(evidence))
        opening = np.full(len(evidence), self.bias, np.float32)
        for column, offset in enumerate(self.offsets):
            opening += parts[np.clip(steps + offset, 0, len(evidence) - 1), column]
        return opening

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[np.generic]]) -> "Readout":
        """The readout in the arrays of a weight file."""
        return cls(
            offsets=tuple(int(offset) for offset in arrays["readout_offsets"]),
            weights=arrays["readout_weights"].astype(np.float32),
            bias=float(arrays["readout_bias"]),
        )


def evidence_of(outputs: Array) -> Array:
    """The networks' outputs (n, n_outputs) with each logit as a probability, so that every column is about 0 to 1."""
    evidence = outputs.astype(np.float32)
    flags = evidence[:, PRESS:FIRST_PHONE]
    evidence[:, PRESS:FIRST_PHONE] = 1 / (1 + np.exp(-np.clip(flags, -30, 30)))
    phones = evidence[:, FIRST_PHONE:]
    phones = np.exp(phones - phones.max(axis=1, keepdims=True))
    evidence[:, FIRST_PHONE:] = phones / phones.sum(axis=1, keepdims=True)
    return evidence
