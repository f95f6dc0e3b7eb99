"""Find model files in the published folders, in a ComfyUI `models/` folder, or in a Hugging Face cache.

`LIPSYNC_WEIGHTS_DIR` names one folder of three kinds. It may contain the published folders that `lipsync weights pull`
writes. It may be ComfyUI's folder or its `models/`; extra_model_paths.yaml then adds folders. It may be the cache of
the library huggingface_hub (`hub/models--ORGANISATION--NAME/snapshots/REVISION/`). Knows names of folders. Does not
know the content of a file (engines/infinitetalk/files/recognise.py does).
"""

import os
from collections.abc import Iterator
from pathlib import Path

from lipsync_server.errors import WeightsError

SUFFIXES = (".safetensors", ".gguf")
EXTRA_PATHS = "extra_model_paths.yaml"
# ComfyUI's folders for other kinds of models. They have no file for us, and a search takes time.
_OTHER_KINDS = frozenset({
    "controlnet", "embeddings", "hypernetworks", "upscale_models", "style_models", "gligen", "photomaker", "vae_approx",
    "configs", "insightface", "ultralytics", "sams", "animatediff_models", "ipadapter", "LLM", "latent_upscale_models",
    "prompts",
})  # fmt: skip
# A folder with more files than this is not a folder of models.
_MOST_FILES = 20_000


def roots(weights_dir: Path) -> tuple[Path, ...]:
    """The folders that are searched for model files, the named one first.

    Raises WeightsError for a broken YAML file.
    """
    found = [weights_dir]
    for place in (weights_dir, weights_dir.parent):
        listed = place / EXTRA_PATHS
        # The YAML file beside the folder counts only if the folder is ComfyUI's models/. Other neighbours are not
        # ComfyUI's.
        if listed.is_file() and (place == weights_dir or weights_dir.name == "models"):
            found += _extra_folders(listed)
    return tuple(dict.fromkeys(path for path in found if path.is_dir()))


def model_files(weights_dir: Path) -> list[Path]:
    """Every safetensors and GGUF file below the roots, by name. Links are followed, and no file is listed twice."""
    seen: set[Path] = set()
    found: list[Path] = []
    for root in roots(weights_dir):
        for path in _walk(root):
            real = path.resolve()
            if real not in seen and path.is_file():
                seen.add(real)
                found.append(path)
            if len(found) > _MOST_FILES:
                raise WeightsError(f"{weights_dir} holds more than {_MOST_FILES:,} model files. Name a smaller folder.")
    return sorted(found, key=lambda path: (path.name.lower(), path))


def folder_named(weights_dir: Path, name: str) -> Path:
    """The published folder `name`: below the weights folder, else its newest snapshot in a Hugging Face cache."""
    plain = weights_dir / name
    if plain.is_dir():
        return plain
    for cache in (weights_dir, weights_dir / "hub"):
        for repository in sorted(cache.glob(f"models--*--{name}")):
            if snapshot := _snapshot(repository):
                return snapshot
    for inside in ("transformers/TencentGameMate", "models/transformers/TencentGameMate"):
        # The Wan wrapper's node downloads wav2vec2's whole folder to this place.
        if (weights_dir / inside / name).is_dir():
            return weights_dir / inside / name
    return plain


def _snapshot(repository: Path) -> Path | None:
    """The snapshot that the cache's `main` names, else the newest one."""
    try:
        named = repository / "snapshots" / (repository / "refs" / "main").read_text(encoding="utf-8").strip()
        if named.is_dir():
            return named
    except OSError:
        pass
    snapshots = [path for path in (repository / "snapshots").glob("*") if path.is_dir()]
    return max(snapshots, key=lambda path: path.stat().st_mtime, default=None)


def _walk(root: Path) -> Iterator[Path]:
    """Every safetensors and GGUF file below `root`, without hidden folders and folders of other kinds of models."""
    seen: set[str] = set()
    for folder, folders, files in os.walk(root, followlinks=True):
        # Links may lead back to a folder above.
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        inside = Path(folder)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in _OTHER_KINDS)
        if inside.name.startswith("models--"):
            # Old snapshots and blobs of a cache are the same files under other names.
            snapshot = _snapshot(inside)
            folders.clear()
            if snapshot is not None:
                yield from _walk(snapshot)
            continue
        yield from (inside / name for name in sorted(files) if name.endswith(SUFFIXES))


def _extra_folders(listed: Path) -> Iterator[Path]:
    """The folders that ComfyUI's extra_model_paths.yaml names: `base_path`, and below it one or more for each kind."""
    import yaml

    try:
        sections = yaml.safe_load(listed.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise WeightsError(f"{listed} cannot be read ({reason}). Mend it as ComfyUI's example shows.") from error
    for section in sections.values() if isinstance(sections, dict) else ():
        if not isinstance(section, dict):
            continue
        base = section.get("base_path")
        start = listed.parent / Path(os.path.expandvars(str(base))).expanduser() if base else listed.parent
        for kind, places in section.items():
            if kind not in ("base_path", "is_default", "custom_nodes", *_OTHER_KINDS) and isinstance(places, str):
                yield from (start / place.strip() for place in places.splitlines() if place.strip())
