"""Bytes and minutes from a provider's start to the first frame, on lines of 100, 500 and 1,000 Mbit/s.

    python tests/load/first_video.py [--profile infinitetalk-int8-fast] [--mbps 100 500 1000]

Simulated: the image from a stand-in registry (one layer), then the profile by the real downloader from a stand-in hub,
both behind one line of limited rate. Every file is BYTES_SCALE times smaller and the clock runs TIME_SCALE times
faster, so that minutes become seconds. A profile's late files (a text encoder) come after the others, while the engine
loads; the first job waits for them unless the default prompt's embedding is known. Computed, by stated constants:
unpacking, reading, compiling, and the first window of a video on an RTX 4090 (cloud/costs/speeds.py). Prints a table in
Markdown.
"""

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Awaitable
from dataclasses import dataclass
from pathlib import Path

import aiohttp

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from lipsync_server.cloud.costs.first_video import IMAGE_BYTES
from lipsync_server.cloud.costs.speeds import expected_speed, row_of_profile
from lipsync_server.weights.download import pull
from lipsync_server.weights.manifest import Manifest, load_manifest
from model_hub import Hub, Line, serve_hub

BYTES_SCALE = 1000
TIME_SCALE = 20
LAYER = "layer.tar"

UNPACK_S = 90.0
"""Unpacking 10 GB of image on a rented host: 1 to 2 minutes, assumed."""
READ_BYTES_PER_S = 1.5e9
"""Reading model files from a rented disk: 1 to 2 GB/s, assumed."""
COMPILE_S = 50.0
"""Kernels, text encoder and cuDNN in a first job: 28 s on an H100; 30 to 70 s on slower hosts, assumed."""
FIRST_WINDOW_S = {"infinitetalk": 81 / 25, "flashhead": 33 / 25}
"""Seconds of video in the first window, which is shown when it is finished."""


@dataclass(frozen=True)
class Phases:
    """Seconds of each part at full size, and the bytes that were sent. late_s: of the files that come last."""

    mbps: float
    size_bytes: float
    image_s: float
    weights_s: float
    late_s: float
    load_s: float
    first_frame_s: float

    def minutes(self, *, known_prompt: bool) -> float:
        """Minutes to the first frame. known_prompt: the default prompt's embedding is here before its encoder."""
        loaded_s = self.load_s if known_prompt else max(self.load_s, self.late_s)
        return sum((self.image_s, UNPACK_S, self.weights_s, loaded_s, COMPILE_S, self.first_frame_s)) / 60


def scaled(manifest: Manifest, profile: str) -> tuple[Manifest, dict[str, bytes]]:
    """The manifest with files of a thousandth, and their contents by path."""
    files = dict(manifest.files)
    contents: dict[str, bytes] = {}
    for name in manifest.profiles[profile].files:
        size = max(2, round(files[name].size_bytes / BYTES_SCALE))
        files[name] = files[name].model_copy(update={"size_bytes": size, "size_exact": True, "sha256": None})
        contents[files[name].path] = bytes(size)
    return manifest.model_copy(update={"files": files}), contents


async def simulate(profile: str, mbps: float) -> Phases:
    manifest, contents = scaled(load_manifest(), profile)
    contents[LAYER] = bytes(round(IMAGE_BYTES / BYTES_SCALE))
    async with serve_hub(contents) as hub:
        hub.line = Line(mbps * 1e6 / 8 / BYTES_SCALE * TIME_SCALE)
        os.environ["HF_ENDPOINT"] = hub.url
        image_s = await timed(pull_image(hub))
        with tempfile.TemporaryDirectory() as folder:
            late = manifest.profile(profile).late
            weights_s = await timed(asyncio.to_thread(pull, profile, Path(folder), manifest=manifest, skip=late))
            last = asyncio.to_thread(pull, profile, Path(folder), manifest=manifest, only=late)
            late_s = await timed(last) if late else 0.0
    size_bytes = load_manifest().size_bytes(profile)
    late_bytes = sum(file.size_bytes for file in load_manifest().files_named(late))
    row = row_of_profile(load_manifest(), profile, "fast")
    speed = expected_speed("RTX 4090", row)
    assert speed is not None
    return Phases(
        mbps=mbps,
        size_bytes=IMAGE_BYTES + size_bytes,
        image_s=image_s,
        weights_s=weights_s,
        late_s=late_s,
        load_s=(size_bytes - late_bytes) / READ_BYTES_PER_S,
        first_frame_s=FIRST_WINDOW_S[row.engine] * speed.seconds,
    )


async def timed(work: Awaitable[object]) -> float:
    """Seconds at full scale that an awaitable took."""
    began = time.monotonic()
    await work
    return (time.monotonic() - began) * TIME_SCALE


async def pull_image(hub: Hub) -> None:
    """Read the image's one layer, as a host does from a registry."""
    async with aiohttp.ClientSession() as session, session.get(f"{hub.url}/registry/image/resolve/main/{LAYER}") as got:
        got.raise_for_status()
        await got.read()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--profile", default="infinitetalk-int8-fast")
    parser.add_argument("--mbps", type=float, nargs="+", default=[100.0, 500.0, 1000.0])
    asked = parser.parse_args()
    print(
        "| Mbit/s | GB | image | unpack | weights | load | text encoder, meanwhile | compile | first window "
        "| minutes to the first frame | with the default prompt's embedding |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for mbps in asked.mbps:
        found = asyncio.run(simulate(asked.profile, mbps))
        parts = (found.image_s, UNPACK_S, found.weights_s, found.load_s, found.late_s, COMPILE_S, found.first_frame_s)
        cells = [f"{mbps:g}", f"{found.size_bytes / 1e9:.1f}", *(f"{part:.0f} s" for part in parts)]
        cells += [f"{found.minutes(known_prompt=known):.1f}" for known in (False, True)]
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
