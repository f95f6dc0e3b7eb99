"""Search the order of the GPU image's layers with which a host has unpacked the image soonest.

    python tests/load/layer_order.py

A host downloads three layers at a time over one line, and unpacks them one after the other, in their order. The layers
of Debian come first, because they change least, and kernels and package last, because they change most; the order of
the layers between is free. Each order is judged by the sum of its times over lines of 100, 500 and 1,000 Mbit/s and
hosts that unpack 60, 107 and 200 MB/s. From random orders, one layer is moved as long as that saves time. Computed, not
measured; prints the order of the Dockerfile and the best one found.
"""

import random
from collections.abc import Sequence

from lipsync_server.cloud.costs.first_video import IMAGE_LAYERS, Layer

DOWNLOADS_AT_ONCE = 3
N_FIRST, N_LAST = 3, 2
"""Layers at the bottom and at the top whose place is fixed."""
CASES = ((500, 107e6), (1000, 107e6), (100, 107e6), (500, 60e6), (500, 200e6))
"""Mbit/s of the line, and bytes that the host unpacks in a second."""
N_STARTS = 12


def image_times(layers: Sequence[Layer], mbps: float, unpack_bytes_per_s: float) -> tuple[float, float]:
    """Seconds to the last byte of the image, and to the end of its unpacking."""
    line_bytes_per_s = mbps * 1e6 / 8
    left = {index: layer.size_bytes for index, layer in enumerate(layers)}
    now_s = unpacked_s = 0.0
    arrived_s = dict.fromkeys(left, 0.0)
    while left:
        active = sorted(left)[:DOWNLOADS_AT_ONCE]
        first = min(active, key=lambda index: left[index])
        step_bytes = left[first]
        now_s += step_bytes * len(active) / line_bytes_per_s
        for index in active:
            left[index] -= step_bytes
        arrived_s[first] = now_s
        del left[first]
    for index, layer in enumerate(layers):
        unpacked_s = max(unpacked_s, arrived_s[index]) + layer.unpacked_bytes / unpack_bytes_per_s
    return now_s, unpacked_s


def with_middle(middle: Sequence[Layer]) -> list[Layer]:
    """All layers of the image with these in the middle."""
    return [*IMAGE_LAYERS[:N_FIRST], *middle, *IMAGE_LAYERS[-N_LAST:]]


def cost(middle: Sequence[Layer]) -> float:
    """The seconds of all cases together."""
    return sum(image_times(with_middle(middle), *case)[1] for case in CASES)


def improved(middle: list[Layer]) -> list[Layer]:
    """The order after every move of one layer that saves time."""
    while True:
        moves = []
        for place in range(len(middle)):
            rest = middle[:place] + middle[place + 1 :]
            moves += [[*rest[:to], middle[place], *rest[to:]] for to in range(len(middle))]
        best = min(moves, key=cost)
        if cost(best) >= cost(middle) - 1e-6:
            return middle
        middle = best


def main() -> None:
    present = list(IMAGE_LAYERS[N_FIRST:-N_LAST])
    random.seed(0)
    found = min((improved(random.sample(present, len(present))) for _ in range(N_STARTS)), key=cost)
    for name, middle in (("the Dockerfile's order", present), ("the best order found", found)):
        print(f"{name}: {', '.join(f'{layer.size_bytes / 1e6:.0f}' for layer in middle)} MB")
        for mbps, speed in CASES:
            last_s, done_s = image_times(with_middle(middle), mbps, speed)
            print(f"    {mbps} Mbit/s, {speed / 1e6:.0f} MB/s unpacked: {last_s:.0f} s, unpacked at {done_s:.0f} s")


if __name__ == "__main__":
    main()
