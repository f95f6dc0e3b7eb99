"""The tables of docs/performance.md about cards on which this project never ran: compiled kernels, computed speeds.

Knows the files of bench/compiled_kernels.py and of `lipsync bench --share`, and the roofline of the engine. A shared
file's measured figure replaces its card's computed one.
"""

from collections.abc import Mapping
from typing import Any

from lipsync_server.cloud.costs.speeds import is_card
from lipsync_server.engines.infinitetalk import roofline
from lipsync_server.markdown import table

Numbers = Mapping[str, Any]
_CAPABILITIES = {"80": "8.0", "86": "8.6", "89": "8.9", "90": "9.0", "100": "10.0", "120": "12.0"}


def compiled_kernels(numbers: Numbers, reference: Numbers) -> str:
    """A row for each kernel, and a column for each compute capability."""
    on = numbers.get("compiled", {}).get("on", {})
    names = list(dict.fromkeys(name for kernels in on.values() for name in kernels))
    rows = [
        (f"`{name}`", *(_resources(on.get(capability, {}).get(name)) for capability in _CAPABILITIES)) for name in names
    ]
    return table(("kernel", *_CAPABILITIES.values()), rows)


def other_cards(numbers: Numbers, reference: Numbers) -> str:
    """A row for each card: the computed seconds by part, and the measured figure if a user shared one."""
    rows = []
    for name, card in roofline.CARDS.items():
        attention, product = roofline.ATTENTION_SHARE, roofline.PRODUCT_SHARE
        forward = roofline.forward_s(card, attention.usual, product.usual)
        rows.append(
            (
                name,
                f"{attention.least * card.int8_tops:.0f} to {attention.most * card.int8_tops:.0f}",
                f"{product.least * card.int8_tops:.0f} to {product.most * card.int8_tops:.0f}",
                f"{forward:.1f}",
                f"{roofline.vae_s(card):.1f}",
                f"**{roofline.usual(card):.1f}** ({roofline.fastest(card):.1f} to {roofline.slowest(card):.1f})",
                "" if card.target is None else f"{card.target:g}",
                _measured(numbers, name),
            )
        )
    heads = (
        "card", "int8 attention, TFLOP/s", "int8 products, TFLOP/s", "a forward, s", "the VAE, s a window",
        "computed s/s (likely range)", "target", "measured s/s",
    )  # fmt: skip
    return table(heads, rows)


def _resources(one: Numbers | None) -> str:
    """A cell: registers (r), shared memory, tensor-core instructions (t), occupancy, and spilled bytes if any."""
    if one is None:
        return ""
    words = f"{one['registers']} r, {one['shared_bytes'] / 1024:.0f} KiB"
    if one["tensor_instructions"]:
        words += f", {one['tensor_instructions']} t"
    words += f", {one['occupancy']:.0%}"
    return words if not one["spilled_bytes"] else f"{words}, {one['spilled_bytes']} B spilled"


def _measured(numbers: Numbers, card: str) -> str:
    """The figure of a shared file of this card for the same preset and resolution, with its date."""
    for shared in numbers.get("shared", []):
        if not is_card(card, shared["card"]):
            continue
        for speed in shared["speeds"]:
            if (speed["engine"], speed["preset"]) == ("infinitetalk", "fast") and speed["resolution"] in ("", "480p"):
                return f"**{speed['seconds_per_second']:.1f}** ({shared['measured_on']}, driver {shared['driver']})"
    return ""


TABLES = {"compiled_kernels": compiled_kernels, "other_cards": other_cards}
