"""The tables of docs/options.md about model files: profiles, files, manifest, licences, LoRA, host memory.

options_table.py writes them into the page. All contents come from the code: the manifest, its model, the reader of LoRA
keys and the plan of InfiniteTalk's memory. Only `memory_table` imports torch, when it is called.
"""

from collections.abc import Callable, Sequence

from pydantic import BaseModel

from lipsync_server.engines.infinitetalk.files.lora_keys import NOT_READ
from lipsync_server.markdown import table
from lipsync_server.schema_words import field_lines
from lipsync_server.weights.manifest import Manifest, Profile, Source, WeightFile, load_manifest

# Memory in GiB of cards that people rent.
_CARDS_GIB = {"24 GB (23.5 usable)": 23.5, "22.5 GB (L4, A10)": 22.5, "16 GB": 16.0, "12 GB": 12.0}
_TAKEN_GIB = 0.8
"""GPU memory that CUDA and a desktop take before this process."""
_RESOLUTIONS = {"480p": 640 * 640, "720p": 960 * 960}
_MODELS: dict[str, type[BaseModel]] = {"source": Source, "file": WeightFile, "profile": Profile}


def profiles_table() -> str:
    """One row for each profile: its engine, its purpose, and the disk that it takes."""
    manifest = load_manifest()
    rows = [
        (f"`{name}`", profile.engine, f"{manifest.size_bytes(name) / 1e9:.1f}", profile.title)
        for name, profile in manifest.profiles.items()
    ]
    return table(("profile", "engine", "GB on disk", "purpose"), rows)


def files_table(engine: str) -> str:
    """Every file that a profile of this engine has: its place below the weights folder, size and profiles."""
    manifest = load_manifest()
    profiles = {name: profile for name, profile in manifest.profiles.items() if profile.engine == engine}
    wanted = dict.fromkeys(file for profile in profiles.values() for file in profile.files)
    rows = []
    for key in wanted:
        file = manifest.files[key]
        of = [name.removeprefix(f"{engine}-") for name, profile in profiles.items() if key in profile.files]
        size = (file.size_bytes + file.named_bytes) / 1e9
        rows.append((f"`{manifest.sources[file.source].folder}/{file.path}`", f"{size:.2f}", ", ".join(of)))
    return table(("file below the weights folder", "GB", "profiles"), rows)


def licences_table() -> str:
    """One row for each source of model files: its licence and the engines that read it."""
    manifest = load_manifest()
    rows = [
        (source.what, source.licence, source.repository, ", ".join(_engines_of(manifest, key)) or "none by a profile")
        for key, source in manifest.sources.items()
    ]
    return table(("model", "licence", "repository", "engines"), rows)


def manifest_table(kind: str) -> str:
    """The fields of one kind of entry of the manifest: source, file or profile."""
    lines = field_lines(_MODELS[kind].model_json_schema())
    rows = [(f"`{line.name}`", line.kind, "yes" if line.required else "no", line.description) for line in lines]
    return table(("field", "type", "required", "meaning"), rows)


def lora_table() -> str:
    """The kinds of LoRA keys that are refused, by name."""
    return table(("refused", "known by keys that end in"), [(kind, f"`{shown}`") for kind, shown, _ in NOT_READ])


def memory_table() -> str:
    """The plan of InfiniteTalk's transformer for each card: blocks on the card, host memory, the cost of streaming."""
    from lipsync_server.engines.infinitetalk import roofline
    from lipsync_server.engines.infinitetalk.loading.memory import GIB, plan
    from lipsync_server.engines.infinitetalk.model.config import TransformerConfig
    from lipsync_server.engines.infinitetalk.model.offload import streamed_indices
    from lipsync_server.engines.infinitetalk.streaming_time import PCIE3_X8_BYTES_PER_S, schedule

    rows = []
    card_4090 = roofline.CARDS["RTX 4090"]
    forward_s = roofline.forward_s(card_4090, roofline.ATTENTION_SHARE.most, roofline.PRODUCT_SHARE.most)
    for card, usable_gib in _CARDS_GIB.items():
        for resolution, pixels in _RESOLUTIONS.items():
            made = plan(
                TransformerConfig(), quant="int8", pixels=pixels, passes=2, compiled=True,
                free_bytes=int((usable_gib - _TAKEN_GIB) * GIB), with_encoders=True,
            )  # fmt: skip
            waiting = made.n_blocks - made.resident_blocks
            # A block of the smaller video computes for a shorter time, so less of the copying is hidden.
            block_s = forward_s / made.n_blocks * (1 if pixels == 640 * 640 else 2.25)
            streamed = schedule(
                made.n_blocks, streamed_indices(made.n_blocks, made.resident_blocks),
                block_s=block_s, copy_s=made.block_bytes / PCIE3_X8_BYTES_PER_S,
            )  # fmt: skip
            if made.free_bytes is not None and made.least_device_bytes > made.free_bytes:
                needed = f"refused: needs {made.least_device_bytes / GIB:.1f} GiB to work in"
                rows.append((f"{card}, {resolution}", needed, "", "", "", "", ""))
                continue
            rows.append((
                f"{card}, {resolution}", f"{made.resident_blocks} of {made.n_blocks}",
                f"{waiting * made.block_bytes / 1e9:.1f} GB", f"{made.waiting_bytes / GIB:.1f} GiB",
                f"{waiting * made.block_bytes / GIB:.1f} GiB",
                f"{made.host_bytes / GIB:.1f} GiB", f"{streamed.waited_s:.2f} s",
            ))  # fmt: skip
    heads = (
        "card and resolution", "blocks on the card", "streamed a forward", "pinned", "plain", "host memory in all",
        "waited for copies a forward, PCIe 3 x8",
    )  # fmt: skip
    return table(heads, rows)


BLOCKS: dict[str, Callable[[Sequence[str]], str]] = {
    "profiles": lambda arguments: profiles_table(),
    "files": lambda arguments: files_table(arguments[0]),
    "licences": lambda arguments: licences_table(),
    "manifest": lambda arguments: manifest_table(arguments[0]),
    "lora": lambda arguments: lora_table(),
    "memory": lambda arguments: memory_table(),
}
"""The writer of each block, by the block's name in the page."""


def _engines_of(manifest: Manifest, source: str) -> list[str]:
    """The engines with a profile that has a file of this source."""
    used = (
        profile.engine
        for profile in manifest.profiles.values()
        if any(manifest.files[file].source == source for file in profile.files)
    )
    return list(dict.fromkeys(used))
