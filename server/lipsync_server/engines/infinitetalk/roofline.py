"""Computes the speed of preset `fast` on cards that this project never ran on, from the work and the cards' rates.

A roofline: the seconds of a kind of work are its operations over the card's rate, or its bytes over the card's memory
bandwidth. The parts that no rate describes (passes over memory, the VAE's passes) are the H100's measured seconds,
scaled by bandwidth, so the same formula gives the H100's measured window. The data sheet and docs/performance.md
("Other cards") both read this module. Knows int8 weights at 640 x 640; imports no torch.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

# Operations of one forward in TFLOP: products over all tokens, self-attention, cross-attention with the context.
LINEAR_TFLOP, ATTENTION_TFLOP, CROSS_TFLOP = 944.3, 924.8, 25.7
VAE_TFLOP = 302.0
"""Decoding a window, and encoding the frames that overlap with the next one."""
FORWARDS = 4
NEW_VIDEO_S = 2.88
# The H100's profile of a forward and of a window (docs/performance.md), and its memory bandwidth in GB/s.
_H100_PASSES_S, _H100_VAE_S, _H100_GB_PER_S, _H100_BF16_TFLOPS = 0.197, 0.85, 3350, 989
_CONVOLUTION_SHARE = 0.75
"""Share of the dense bf16 rate in convolutions and in cross-attention."""
_H100_VAE_PASSES_S = _H100_VAE_S - VAE_TFLOP / (_CONVOLUTION_SHARE * _H100_BF16_TFLOPS)


@dataclass(frozen=True)
class Range:
    """A share of the published int8 rate. least: the slowest that is likely. most: the fastest that others reached."""

    least: float
    most: float

    @property
    def usual(self) -> float:
        """The geometric mean of both ends."""
        return math.sqrt(self.least * self.most)


ATTENTION_SHARE = Range(0.38, 0.75)
"""least: our int8 attention on an H100 through `mma.sync` (357 TFLOP/s of about 949, the rate of an A100's tensor cores
at the H100's clock and number of cores), at 8,192 tokens with the rounding of its inputs. most: the best that
SageAttention 2++ publishes for a 4090, 493 of 660."""
PRODUCT_SHARE = Range(0.61, 0.74)
"""least: torch's products in tiles of 128 x 128 on cards of this kind. most: the same in tiles of 128 x 256."""


@dataclass(frozen=True)
class Card:
    """One card. int8_tops, bf16_tflops: NVIDIA's dense rates. gb_per_s: memory bandwidth.

    capability: CUDA's compute capability. target: the wanted seconds of work for a second of video, or None.
    """

    int8_tops: float
    bf16_tflops: float
    gb_per_s: float
    capability: str
    target: float | None = None


CARDS: Mapping[str, Card] = {
    "RTX 4090": Card(660, 165, 1008, "8.9", 7.3),
    "RTX 5090": Card(838, 209, 1792, "12.0", 5.5),
    "RTX 3090": Card(284, 71, 936, "8.6", 17.0),
    "A100": Card(624, 312, 2039, "8.0", 8.4),
    "L40S": Card(733, 362, 864, "8.9"),
}
"""Dense rates as in NVIDIA's architecture papers, in TOP/s and TFLOP/s."""


def forward_s(card: Card, attention: float, product: float) -> float:
    """Seconds of one forward at these shares of the int8 rate."""
    return (
        LINEAR_TFLOP / (product * card.int8_tops)
        + ATTENTION_TFLOP / (attention * card.int8_tops)
        + CROSS_TFLOP / (_CONVOLUTION_SHARE * card.bf16_tflops)
        + _H100_PASSES_S * _H100_GB_PER_S / card.gb_per_s
    )


def vae_s(card: Card) -> float:
    """Seconds in which the VAE decodes a window and encodes the frames for the next one."""
    passes_s = _H100_VAE_PASSES_S * _H100_GB_PER_S / card.gb_per_s
    return VAE_TFLOP / (_CONVOLUTION_SHARE * card.bf16_tflops) + passes_s


def seconds_per_second(card: Card, attention: float, product: float) -> float:
    """Seconds of work for a second of video."""
    return (FORWARDS * forward_s(card, attention, product) + vae_s(card)) / NEW_VIDEO_S


def usual(card: Card) -> float:
    """The computed figure: both shares in the middle of their ranges."""
    return seconds_per_second(card, ATTENTION_SHARE.usual, PRODUCT_SHARE.usual)


def slowest(card: Card) -> float:
    """Seconds of work for a second of video, with both shares at the low end of their ranges."""
    return seconds_per_second(card, ATTENTION_SHARE.least, PRODUCT_SHARE.least)


def fastest(card: Card) -> float:
    """Seconds of work for a second of video, with both shares at the high end of their ranges."""
    return seconds_per_second(card, ATTENTION_SHARE.most, PRODUCT_SHARE.most)
