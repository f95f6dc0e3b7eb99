"""Bytes and minutes from a provider's start to the first frame, on lines of 100, 500 and 1,000 Mbit/s.

    python tests/load/first_video.py [--profile infinitetalk-int8-fast] [--mbps 100 500 1000] [--stock]

Simulated: the image's layers from a stand-in registry, three at a time, each unpacked in its turn while others arrive;
then the profile by the real downloader from a stand-in hub. Both are behind one line of limited rate. --stock: the host
has PyTorch's image already, and cloud/software.py's script installs Lipsync in it: the plain package, and then the rest
while the profile is downloaded. Every file is
BYTES_SCALE times smaller and the clock runs --faster times faster, so that minutes become seconds. A profile's late
files (a text encoder) come after the others, while the engine loads; the first job compiles and waits for them unless
the default prompt's embedding is known. Computed, by stated constants: unpacking, reading, compiling, and the first
window of a video on an RTX 4090 (cloud/costs/speeds.py). The last column is arithmetic: all bytes / the line, which no
order of the work can beat. Prints a table in Markdown.
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

from lipsync_server.cloud.costs.first_video import IMAGE_LAYERS, Layer
from lipsync_server.cloud.costs.speeds import expected_speed, row_of_profile
from lipsync_server.weights.download import pull
from lipsync_server.weights.manifest import Manifest, load_manifest
from model_hub import Hub, Line, serve_hub

BYTES_SCALE = 1000
DOWNLOADS_AT_ONCE = 3
"""Layers that Docker downloads at the same time (its max-concurrent-downloads)."""
UNPACK_BYTES_PER_S = 107e6
"""Unpacking the image's layers on a rented host, one after the other: 1 to 2 minutes for 9.6 GB, assumed."""
PLAIN_WHEELS_BYTES, PLAIN_INSTALL_S = 0.31e9, 20.0
"""The wheels of the plain package, by the sizes that pip prints, and seconds to install them, assumed."""
REST_WHEELS_BYTES, REST_INSTALL_S = 0.07e9, 30.0
"""The same for the extras beside the image's torch, and a C compiler from Debian."""
READ_BYTES_PER_S = 1.5e9
"""Reading model files from a rented disk: 1 to 2 GB/s, assumed."""
COMPILE_S = {"infinitetalk": 50.0, "flashhead": 16.0, "sadtalker": 40.0}
"""Kernels and cuDNN in a first job: 28, 8 and 20 s measured on an H100 (docs/); twice on slower hosts, assumed."""
FIRST_WINDOW_S = {"infinitetalk": 81 / 25, "flashhead": 33 / 25, "sadtalker": 8 / 25}
"""Seconds of video in the first window or batch, which is shown when it is finished."""
REHEARSED = 0.3
"""Part of the first window that a job runs while it waits for its text encoder: one step of four, some frames."""


@dataclass(frozen=True)
class Phases:
    """Seconds of each part at full size, and the bytes that were sent. late_s: of the files that are downloaded last.

    unpack_s: from the last byte of the image to its start. encode_s: the prompt, once the late files are downloaded.
    """

    mbps: float
    size_bytes: float
    image_s: float
    unpack_s: float
    weights_s: float
    late_s: float
    load_s: float
    compile_s: float
    encode_s: float
    first_frame_s: float

    def minutes(self, *, known_prompt: bool) -> float:
        """Minutes to the first frame. known_prompt: the default prompt's embedding is here before its encoder."""
        ready_s = self.load_s + self.compile_s
        if self.late_s and not known_prompt:
            ready_s = max(self.late_s, ready_s + REHEARSED * self.first_frame_s) + self.encode_s
        return sum((self.image_s, self.unpack_s, self.weights_s, ready_s, self.first_frame_s)) / 60

    @property
    def least_minutes(self) -> float:
        """Minutes that the line needs for all bytes."""
        return self.size_bytes * 8 / (self.mbps * 1e6) / 60


def scaled(manifest: Manifest, profile: str) -> tuple[Manifest, dict[str, bytes]]:
    """The manifest with files of a thousandth, and their contents by path."""
    files = dict(manifest.files)
    contents: dict[str, bytes] = {}
    for name in manifest.profiles[profile].files:
        size = max(2, round(files[name].size_bytes / BYTES_SCALE))
        files[name] = files[name].model_copy(update={"size_bytes": size, "size_exact": True, "sha256": None})
        contents[files[name].path] = bytes(size)
    return manifest.model_copy(update={"files": files}), contents


async def simulate(profile: str, mbps: float, faster: float, *, stock: bool) -> Phases:
    manifest, contents = scaled(load_manifest(), profile)
    layers = STOCK_LAYERS if stock else IMAGE_LAYERS
    contents |= {layer_path(n): bytes(round(layer.size_bytes / BYTES_SCALE)) for n, layer in enumerate(layers)}
    contents[REST] = bytes(round(REST_WHEELS_BYTES / BYTES_SCALE))
    async with serve_hub(contents) as hub:
        hub.line = Line(mbps * 1e6 / 8 / BYTES_SCALE * faster)
        os.environ["HF_ENDPOINT"] = hub.url
        image_s, unpack_s = await pull_image(hub, layers, faster)
        with tempfile.TemporaryDirectory() as folder:
            late = manifest.profile(profile).late
            main = asyncio.to_thread(pull, profile, Path(folder), manifest=manifest, skip=late)
            rest = install_rest(hub, faster) if stock else asyncio.sleep(0)
            weights_s = await timed(asyncio.gather(main, rest), faster)
            late_s = 0.0
            if late:
                last = asyncio.to_thread(pull, profile, Path(folder), manifest=manifest, only=late)
                late_s = await timed(last, faster)
    size_bytes = load_manifest().size_bytes(profile)
    late_bytes = sum(file.size_bytes for file in load_manifest().files_named(late))
    row = row_of_profile(load_manifest(), profile, "fast")
    speed = expected_speed("RTX 4090", row)
    assert speed is not None
    return Phases(
        mbps=mbps,
        size_bytes=sum(layer.size_bytes for layer in layers) + (REST_WHEELS_BYTES if stock else 0) + size_bytes,
        image_s=image_s,
        unpack_s=unpack_s,
        weights_s=weights_s,
        late_s=late_s,
        load_s=(size_bytes - late_bytes) / READ_BYTES_PER_S,
        compile_s=COMPILE_S[row.engine],
        encode_s=late_bytes / READ_BYTES_PER_S,
        first_frame_s=FIRST_WINDOW_S[row.engine] * speed.seconds,
    )


def layer_path(number: int) -> str:
    return f"layer-{number}.tar"


STOCK_LAYERS = (Layer(PLAIN_WHEELS_BYTES, PLAIN_INSTALL_S * UNPACK_BYTES_PER_S),)
REST = "rest.whl"


async def install_rest(hub: Hub, faster: float) -> None:
    """Download and install the extras, as the start script of a stock image does beside the download of weights."""
    address = f"{hub.url}/registry/image/resolve/main/{REST}"
    async with aiohttp.ClientSession() as session, session.get(address) as got:
        got.raise_for_status()
        await got.read()
    await asyncio.sleep(REST_INSTALL_S / faster)


async def pull_image(hub: Hub, layers: tuple[Layer, ...], faster: float) -> tuple[float, float]:
    """Read the image's layers as a host does; returns seconds to the last byte, and from there to the last file."""
    at_once = asyncio.Semaphore(DOWNLOADS_AT_ONCE)
    began = time.monotonic()
    async with aiohttp.ClientSession() as session:

        async def download(number: int) -> float:
            address = f"{hub.url}/registry/image/resolve/main/{layer_path(number)}"
            async with at_once, session.get(address) as got:
                got.raise_for_status()
                await got.read()
            return time.monotonic()

        async def unpack(layer: Layer) -> None:
            await asyncio.sleep(layer.unpacked_bytes / UNPACK_BYTES_PER_S / faster)

        downloads = [asyncio.create_task(download(number)) for number in range(len(layers))]
        for arrived, layer in zip(downloads, layers, strict=True):
            await arrived
            await unpack(layer)
        last = max(await asyncio.gather(*downloads))
    return (last - began) * faster, (time.monotonic() - last) * faster


async def timed(work: Awaitable[object], faster: float) -> float:
    """The duration of an awaitable, in seconds at full scale."""
    began = time.monotonic()
    await work
    return (time.monotonic() - began) * faster


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--profile", default="infinitetalk-int8-fast")
    parser.add_argument("--mbps", type=float, nargs="+", default=[100.0, 500.0, 1000.0])
    parser.add_argument("--faster", type=float, default=10.0, help="how much faster the clock runs")
    parser.add_argument("--stock", action="store_true", help="a host that has PyTorch's image")
    asked = parser.parse_args()
    print(
        "| profile | Mbit/s | GB | image | unpack | weights | load | compile | text encoder, meanwhile | first window "
        "| minutes to the first frame | with the default prompt's embedding | the bytes alone |"
    )
    print("|" + " --- |" * 13)
    for mbps in asked.mbps:
        found = asyncio.run(simulate(asked.profile, mbps, asked.faster, stock=asked.stock))
        parts = (found.image_s, found.unpack_s, found.weights_s, found.load_s, found.compile_s)
        cells = [
            f"`{asked.profile}`",
            f"{mbps:g}",
            f"{found.size_bytes / 1e9:.1f}",
            *(f"{part:.0f} s" for part in parts),
        ]
        cells += [f"{found.late_s:.0f} s" if found.late_s else "", f"{found.first_frame_s:.0f} s"]
        cells += [f"{found.minutes(known_prompt=False):.1f}"]
        cells += [f"{found.minutes(known_prompt=True):.1f}" if found.late_s else "", f"{found.least_minutes:.1f}"]
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
