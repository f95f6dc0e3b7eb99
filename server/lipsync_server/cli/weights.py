"""`lipsync weights list | scan | pull | convert | embed | verify | path`: model weights by profile."""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lipsync_server.cli import console
from lipsync_server.errors import InvalidInput

if TYPE_CHECKING:
    from lipsync_server.engines.model_files import FolderScan
    from lipsync_server.weights.manifest import Manifest

WeightsDir = Annotated[Path | None, typer.Option("--weights-dir", help="Where weights lie.", show_default="weights")]

group = typer.Typer(help="List, download and check model weights.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add this group of verbs to the command."""
    app.add_typer(group, name="weights")


def _manifest_and_folder(weights_dir: Path | None) -> tuple["Manifest", Path]:
    """The list of weights, and the folder of the weights. weights_dir: None for the settings' folder."""
    from lipsync_server.weights.manifest import load_manifest

    settings = console.settings_from({"weights_dir": weights_dir})
    return load_manifest(settings.manifest), settings.weights_dir


@group.command("list")
def list_profiles(weights_dir: WeightsDir = None) -> None:
    """List the profiles with their purpose and download size."""
    with console.errors_as_sentences():
        from rich.console import Console
        from rich.table import Table

        from lipsync_server.weights.verify import profile_complete

        manifest, folder = _manifest_and_folder(weights_dir)
        table = Table()
        for title in ("profile", "GB", "here", "purpose"):
            table.add_column(title, no_wrap=title != "purpose")
        for name, profile in manifest.profiles.items():
            size = manifest.size_bytes(name)
            here = "yes" if profile_complete(manifest, name, folder) else "-"
            table.add_row(name, f"{size / 1e9:.1f}", here, f"{profile.title} ({size:,} bytes)")
        Console(soft_wrap=True).print(table)
        if notice := manifest.moving_notice():
            typer.echo(f"{notice}.")


@group.command()
def pull(
    profile: str,
    weights_dir: WeightsDir = None,
    only: Annotated[
        str, typer.Option(help="Names of files in the list of weights, by commas, in place of all files.")
    ] = "",
) -> None:
    """Download a profile; resume an earlier download, and verify every file."""
    with console.errors_as_sentences(), console.stoppable() as stopped:
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        from lipsync_server.weights.download import PullProgress
        from lipsync_server.weights.download import pull as pull_profile

        manifest, folder = _manifest_and_folder(weights_dir)
        for notice in manifest.licence_notices(profile):
            typer.echo(f"Licence: {notice}", err=True)
        if moving := manifest.moving_notice(profile):
            typer.echo(f"{moving}.", err=True)
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns) as progress:
            bar = progress.add_task(profile, total=None)

            def show(state: PullProgress) -> None:
                progress.update(bar, completed=state.bytes_done, total=state.bytes_total, description=state.note)

            paths = pull_profile(
                profile,
                folder,
                on_progress=show,
                cancelled=stopped,
                manifest=manifest,
                only=[name.strip() for name in only.split(",") if name.strip()],
            )
        typer.echo(f"{profile}: {len(paths)} files in {folder}, verified")


@group.command()
def scan(
    path: Annotated[Path | None, typer.Argument(help="ComfyUI's models/, a Hugging Face cache, or any folder.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show the kind of each model file in a folder, the presets that the files serve, and the missing download."""
    with console.errors_as_sentences():
        from lipsync_server.engines.model_files import scanners
        from lipsync_server.weights.verify import profile_complete

        manifest, folder = _manifest_and_folder(path)
        scans = {engine: scan_folder(folder) for engine, scan_folder in scanners().items()}
        complete = [name for name in manifest.profiles if profile_complete(manifest, name, folder)]
        others = _other_engines(manifest, folder, scans)
        if as_json:
            typer.echo(json.dumps(_as_json(folder, scans, complete) | {"other_engines": others}, indent=2))
            return
        for engine, found in scans.items():
            for file in found.files:
                size = f"{file.size_bytes / 1e9:.2f} GB {file.numbers}".rstrip()
                typer.echo(f"{file.part}: {file.path} ({size}){f'; not used: {file.remark}' if file.remark else ''}")
            typer.echo(f"{len(found.files)} model files in {folder}")
            for model in found.models:
                typer.echo(f"engine {engine}: {model}")
        for other in others:
            done = other["here"] == other["files"]
            rest = "complete" if done else f"{other['here']} of {other['files']} files; the rest: {other['download']}"
            typer.echo(f"engine {other['engine']}: profile {other['profile']}, {rest}")
        if complete:
            typer.echo(f"complete profiles: {', '.join(complete)}")
        for engine, found in scans.items():
            of_engine = f" of {engine}" if len(scans) > 1 else ""
            typer.echo(f"presets{of_engine}: {', '.join(found.presets) or 'none yet'}")
            if found.missing:
                typer.echo(f"missing: {', '.join(found.missing)}")
            if found.wanted:
                typer.echo(f"wanted: {', '.join(found.wanted)}")
            command = found.command(folder)
            typer.echo(f"To complete it: {command}" if command else "Nothing is missing.")


def _other_engines(manifest: "Manifest", folder: Path, scans: "Mapping[str, FolderScan]") -> list[dict[str, object]]:
    """Profiles of engines without a scan of which some file is in its place, and the download of the rest."""
    from lipsync_server.weights.verify import files_here

    found: list[dict[str, object]] = []
    for name, profile in manifest.profiles.items():
        if profile.engine in scans:
            continue
        here, n_files = files_here(manifest, name, folder)
        if here:
            command = f"lipsync weights pull {name} --weights-dir {shlex.quote(str(folder))}"
            download = command if here < n_files else None
            found.append(
                {"engine": profile.engine, "profile": name, "here": here, "files": n_files, "download": download}
            )
    return found


def _as_json(folder: Path, scans: "Mapping[str, FolderScan]", complete: list[str]) -> dict[str, object]:
    """The first engine's scan at the top, and each further one in `other_scans`."""
    shown = [_scan_as_json(folder, engine, found) for engine, found in scans.items()]
    more: dict[str, object] = {"other_scans": shown[1:]} if shown[1:] else {}
    return {"folder": str(folder), "complete_profiles": complete} | (shown[0] if shown else {}) | more


def _scan_as_json(folder: Path, engine: str, found: "FolderScan") -> dict[str, object]:
    """The scan of one engine as a JSON object."""
    files = [
        {
            "path": str(file.path), "kind": file.kind, "numbers": file.numbers, "size_bytes": file.size_bytes,
            "people": file.people, "used": file.used, "remark": file.remark,
        }
        for file in found.files
    ]  # fmt: skip
    return {
        "engine": engine, "files": files, "transformers": list(found.models), "presets": list(found.presets),
        "missing": list(found.missing), "wanted": list(found.wanted), "download": found.command(folder),
    }  # fmt: skip


@group.command()
def convert(
    model: Annotated[str, typer.Argument(help="The model to convert. An unknown name lists those that exist.")],
    kind: Annotated[
        str, typer.Option(help="The number format, such as int8 or fp8.", show_default="the model's usual one")
    ] = "",
    weights_dir: WeightsDir = None,
) -> None:
    """Convert a model to the number format that the GPU computes in, so that later starts read at most half as much."""
    with console.errors_as_sentences():
        from lipsync_server.engines.model_files import conversions

        known = conversions()
        if model not in known:
            raise InvalidInput(f"There is no conversion of {model!r}; there are: {', '.join(known)}.", field="model")
        formats = known[model].formats
        if kind and kind not in formats:
            raise InvalidInput(f"--kind: {model} is converted to {' or '.join(formats)}, not {kind!r}.", field="kind")
        _, folder = _manifest_and_folder(weights_dir)
        written = known[model].convert(folder, kind or formats[0])
        n_bytes = written.stat().st_size
        typer.echo(f"{written}: {n_bytes / 1e9:.1f} GB ({n_bytes:,} bytes); later starts read it")


@group.command()
def embed(weights_dir: WeightsDir = None) -> None:
    """Write the default prompt's embedding into one small file, so that other machines need no text encoder."""
    with console.errors_as_sentences():
        settings = console.settings_from({"weights_dir": weights_dir})
        from lipsync_server.engines.model_files import prompt_embedders

        for embed_prompts in prompt_embedders().values():
            path = embed_prompts(settings)
            typer.echo(
                f"{path}\nCopy it to the folder `prompts` of another machine's weights folder, or of the project."
            )


@group.command()
def verify(profile: str, weights_dir: WeightsDir = None) -> None:
    """Compare the files on disk with the published checksums; exit status 1 when a file is missing or damaged."""
    with console.errors_as_sentences():
        from lipsync_server.weights.verify import check_file

        manifest, folder = _manifest_and_folder(weights_dir)
        bad = 0
        for file in manifest.profile_files(profile, folder):
            checked = check_file(manifest, file, folder)
            bad += checked.state in ("missing", "damaged")
            typer.echo(f"{checked.state:8} {checked.path}: {checked.detail}")
        if bad:
            console.fail(f"{bad} of the files are missing or damaged; run: lipsync weights pull {profile}", 1)


@group.command()
def path(profile: str, weights_dir: WeightsDir = None) -> None:
    """Print the paths of a profile's files, one per line."""
    with console.errors_as_sentences():
        manifest, folder = _manifest_and_folder(weights_dir)
        for file in manifest.profile_files(profile, folder):
            typer.echo(manifest.local_path(file, folder))
