"""The list of weights: every file by repository, revision, path, size and SHA-256 where known, and the profiles.

Reads weights/manifest.json, which the project ships, and the file manifest.json of each installed package that offers
an engine. Knows no network (download.py) and no engine.

A profile is a named set of files that one engine needs. The published quant_models folder has neither
`infinitetalk_single_fp8_lora` nor `t5_int8`. So there is no fp8-fast profile for a single person, and int8 profiles use
the fp8 text encoder.
"""

import functools
import logging
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from lipsync_server.engine_packages import outside_packages, package_folder
from lipsync_server.errors import InvalidInput, WeightsError
from lipsync_server.paths import bundled

log = logging.getLogger(__name__)

_FILE = "manifest.json"
_FREE_LICENCES = ("Apache-2.0", "MIT")
_COMMIT = re.compile(r"[0-9a-f]{40}")


class Source(BaseModel):
    """A repository on the model hub and the folder under the weights directory that mirrors it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    repository: str = Field(description="The repository on the model hub.")
    revision: str = Field(description="The commit, whose files never change, or a branch such as main.")
    folder: str = Field(description="The folder below the weights folder that mirrors the repository.")
    licence: str = Field(description="The licence of the files, as the repository names it.")
    what: str = Field(description="The model, in words for a person.")

    @property
    def is_pinned(self) -> bool:
        """Whether the revision is a commit, whose files never change, and not a branch or a request."""
        return _COMMIT.fullmatch(self.revision) is not None


class WeightFile(BaseModel):
    """One file.

    size_exact: False if only the rounded published size is known; then the hub's size counts. named_bytes: for the
    index of a model in shards (diffusers' form), the approximate size of all shards. The index lists the shards, which
    belong to every profile with the index.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str = Field(description="The name of an entry of `sources`.")
    path: str = Field(description="The file's path in the repository, and below its folder here.")
    size_bytes: int = Field(description="The file's size.")
    size_exact: bool = Field(description="False where only a rounded size is known; the hub's size then counts.")
    sha256: str | None = Field(description="The checksum, null where it is not known.")
    named_bytes: int = Field(
        default=0, description="For the index of a model in shards: about how many bytes the shards have together."
    )

    @field_validator("path")
    @classmethod
    def _stays_inside(cls, path: str) -> str:
        """Refuse a path outside the repository's folder."""
        if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
            raise ValueError("must be a relative path without '..'")
        return path


class _Index(BaseModel):
    """A model's index: tensor -> file beside the index."""

    weight_map: dict[str, str]


class Profile(BaseModel):
    """A named set of files that one engine needs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    engine: str = Field(
        description="The engine that needs the files; voice for speech from text, captions for recognition."
    )
    title: str = Field(description="The purpose, in words for a person.")
    files: tuple[str, ...] = Field(description="Names of entries of `files`.")
    late: tuple[str, ...] = Field(
        default=(), description="Those of `files` without which the engine can start; a server downloads them last."
    )

    @model_validator(mode="after")
    def _late_are_files(self) -> "Profile":
        """Refuse a late file that is not in `files`."""
        if unknown := set(self.late) - set(self.files):
            raise ValueError(f"late names {', '.join(sorted(unknown))}, which the profile's files have not")
        return self


class Manifest(BaseModel):
    """The list of weights: sources, files and profiles by name."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: int
    sources: dict[str, Source]
    files: dict[str, WeightFile]
    profiles: dict[str, Profile]

    @model_validator(mode="after")
    def _names_exist(self) -> "Manifest":
        """Refuse a name of a source or file without an entry."""
        sources = {file.source for file in self.files.values()} - self.sources.keys()
        files = {file for profile in self.profiles.values() for file in profile.files} - self.files.keys()
        if missing := sorted(sources | files):
            raise ValueError(f"these names are used and have no entry: {', '.join(missing)}")
        return self

    def profile(self, name: str) -> Profile:
        """The profile of that name. Raises InvalidInput that lists the existing names."""
        if name not in self.profiles:
            raise InvalidInput(
                f"there is no weights profile {name!r}; the profiles are: {', '.join(self.profiles)}", field="profile"
            )
        return self.profiles[name]

    def profile_files(self, name: str, weights_dir: Path | None = None) -> list[WeightFile]:
        """The files of a profile.

        weights_dir: with it, also the shards that the profile's indexes in this folder list. Raises WeightsError for an
        index that cannot be read.
        """
        files = [self.files[key] for key in self.profile(name).files]
        if weights_dir is None:
            return files
        return [one for file in files for one in (file, *self._shards(file, weights_dir))]

    def files_named(self, names: Sequence[str]) -> list[WeightFile]:
        """The files with these names. Raises InvalidInput for an unknown name."""
        for name in names:
            if name not in self.files:
                raise InvalidInput(f"there is no file {name!r} in the list of weights; see manifest.json", field="only")
        return [self.files[name] for name in names]

    def size_bytes(self, name: str) -> int:
        """The download size of a profile in bytes, from the sizes in the manifest."""
        return sum(file.size_bytes + file.named_bytes for file in self.profile_files(name))

    def licence_notices(self, name: str) -> list[str]:
        """One sentence for each source of a profile whose licence the user has to read before the download."""
        sources = dict.fromkeys(file.source for file in self.profile_files(name))
        return [
            f"{self.sources[key].what} ({self.sources[key].licence})"
            for key in sources
            if self.sources[key].licence not in _FREE_LICENCES
        ]

    def moving_sources(self, profile: str | None = None) -> list[str]:
        """Names of the sources whose files may change.

        The revision of such a source is a branch, and at least one of its files has no SHA-256 in the list. profile:
        None for the sources of all profiles.
        """
        used = {file.source for file in self.profile_files(profile)} if profile else self.sources.keys()
        return [
            key
            for key, source in self.sources.items()
            if key in used and not source.is_pinned and not self._has_every_sum(key)
        ]

    def _has_every_sum(self, source: str) -> bool:
        """Whether the list has the SHA-256 of each file of the source, shards included."""
        return all(
            file.sha256 is not None and not file.named_bytes for file in self.files.values() if file.source == source
        )

    def moving_notice(self, profile: str | None = None) -> str | None:
        """A sentence about the sources that are not pinned; None if all are pinned."""
        moving = [self.sources[key] for key in self.moving_sources(profile)]
        if not moving:
            return None
        named = dict.fromkeys(f"{source.repository} ({source.revision})" for source in moving)
        return (
            f"Not pinned: {', '.join(named)}. Files come as their owner has them there today, and are compared with "
            "the SHA-256 that the hub announces, not with one that was tested here"
        )

    def _shards(self, index: WeightFile, weights_dir: Path) -> list[WeightFile]:
        """The shards that the index in `weights_dir` lists; [] for another file or without the index."""
        path = self.local_path(index, weights_dir)
        if not index.named_bytes or not path.is_file():
            return []
        try:
            names = sorted(set(_Index.model_validate_json(path.read_text(encoding="utf-8")).weight_map.values()))
            beside = PurePosixPath(index.path).parent
            return [
                WeightFile(
                    source=index.source,
                    path=str(beside / name),
                    size_bytes=index.named_bytes // len(names),
                    size_exact=False,
                    sha256=None,
                )
                for name in names
            ]
        except (OSError, ValueError) as error:
            raise WeightsError(f"{path} cannot be read ({error}); remove it and pull again") from error

    def folder(self, file: WeightFile, weights_dir: Path) -> Path:
        """The local folder that mirrors the file's repository."""
        return weights_dir / self.sources[file.source].folder

    def local_path(self, file: WeightFile, weights_dir: Path) -> Path:
        """The path of a file on this machine, whether it exists or not."""
        return self.folder(file, weights_dir) / file.path


@functools.cache
def load_manifest(path: Path | None = None) -> Manifest:
    """The manifest at `path`. Without a path, the shipped manifest with the entries of installed outside engines.

    A manifest is read once in a process. Raises WeightsError if it cannot be read.
    """
    try:
        shipped = Manifest.model_validate_json((path or bundled(_FILE)).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"the list of weights {path or _FILE} cannot be read: {error}") from error
    return shipped if path is not None else _with_outside(shipped)


def _with_outside(shipped: Manifest) -> Manifest:
    """`shipped` and the file manifest.json of each package that offers an engine.

    A package can add profiles for its own engine only, and cannot replace a profile of the shipped list. The engine's
    name is put before the names of a package's files and sources. An unreadable file of a package is logged and left
    out.
    """
    whole = shipped
    for engine, package in outside_packages().items():
        folder = package_folder(package)
        if folder is None or not (folder / _FILE).is_file():
            continue
        try:
            more = Manifest.model_validate_json((folder / _FILE).read_text(encoding="utf-8"))
            whole = _joined(whole, more, engine)
        except (OSError, ValueError) as error:
            log.warning("the list of weights of engine %s cannot be read: %s", engine, error)
    return whole


def _joined(whole: Manifest, more: Manifest, engine: str) -> Manifest:
    """`whole` with the entries of `more`, the manifest of the package that offers `engine`."""

    def own(name: str) -> str:
        return f"{engine}/{name}"

    return Manifest(
        version=whole.version,
        sources=whole.sources | {own(name): source for name, source in more.sources.items()},
        files=whole.files
        | {own(name): file.model_copy(update={"source": own(file.source)}) for name, file in more.files.items()},
        profiles=whole.profiles
        | {
            name: profile.model_copy(update={"files": tuple(map(own, profile.files))})
            for name, profile in more.profiles.items()
            if profile.engine == engine and name not in whole.profiles
        },
    )
