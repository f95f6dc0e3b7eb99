"""The tables of docs/options.md about model files: profiles, files, manifest, licences, LoRA, host memory.

options_table.py writes them into the page. Everything comes from the code: the manifest, its model, the reader of LoRA
keys and the plan of InfiniteTalk's memory. torch is imported by the memory plan alone, in the function that asks it.
"""

from collections.abc import Callable, Sequence

from pydantic import BaseModel

from lipsync_server.engines.infinitetalk.files.lora_keys import NOT_READ
from lipsync_server.markdown import table
from lipsync_server.schema_words import field_lines
from lipsync_server.weights.manifest import Manifest, Profile, Source, WeightFile, load_manifest

# Cards that people rent, in GiB of memory; one of them is taken by the system and CUDA.
_CARDS_GIB = (24, 16, 12)
_RESOLUTIONS = {"480p": 640 * 640, "720p": 960 * 960}
_MODELS: dict[str, type[BaseModel]] = {"source": Source, "file": WeightFile, "profile": Profile}


def profiles_table() -> str:
    """One row for each profile: its engine, its purpose, and the disk that it takes."""
    manifest = load_manifest()
    rows = [
        (f"`{name}`", profile.engine, f"{manifest.size_bytes(name) / 1e9:.1f}", profile.title)
        for name, profile in manifest.profiles.items()
    ]
    return table(("profile", "engine", "GB on disk", "what"), rows)


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
    """Host memory for the blocks of InfiniteTalk's transformer that a card has no room for, computed by its plan."""
    from lipsync_server.engines.infinitetalk.loading.memory import GIB, plan
    from lipsync_server.engines.infinitetalk.model.config import TransformerConfig

    rows = []
    for card in _CARDS_GIB:
        for resolution, pixels in _RESOLUTIONS.items():
            made = plan(
                TransformerConfig(), quant="int8", pixels=pixels, passes=2, compiled=True,
                free_bytes=(card - 1) * GIB,
            )  # fmt: skip
            waiting = made.n_blocks - made.resident_blocks
            rows.append((
                f"{card} GB, {resolution}", f"{waiting} of {made.n_blocks}", f"{made.waiting_bytes / GIB:.1f} GiB",
                f"{waiting * made.block_bytes / GIB:.1f} GiB",
            ))  # fmt: skip
    return table(("card and resolution", "blocks that wait", "pinned", "plain"), rows)


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
    used = (
        profile.engine
        for profile in manifest.profiles.values()
        if any(manifest.files[file].source == source for file in profile.files)
    )
    return list(dict.fromkeys(used))
