"""The ways of computing that are measured on the card, by name: what the setting LIPSYNC_CHOICES can fix.

models/kernels/choice.py measures and keeps them. Imports no torch, because settings are read in the server process.
"""

from collections.abc import Iterable

WAYS = {
    "cross_attention": ("cudnn", "flash3", "flash4", "flash2", "flash", "xformers", "sdpa"),
    "product": ("128x128x64", "128x256x64", "128x256x128", "torch"),
    "rounding": ("int8", "fp8"),
    "vae": ("plain", "paired"),
    "blocks": ("fused", "compiled", "plain"),
}
"""Kind of computation -> its ways. Self-attention has a setting of its own, LIPSYNC_ATTENTION."""


def parse_choices(words: Iterable[str]) -> dict[str, str]:
    """Words KIND=WAY -> mapping. Raises ValueError with the known names for any other word."""
    fixed: dict[str, str] = {}
    for word in words:
        kind, equals, way = (part.strip() for part in word.partition("="))
        if not equals or kind not in WAYS:
            raise ValueError(f"{word!r} must be KIND=WAY with KIND one of {', '.join(WAYS)}")
        if way not in WAYS[kind]:
            raise ValueError(f"{way!r} is no way of {kind}; use one of {', '.join(WAYS[kind])}")
        fixed[kind] = way
    return fixed
