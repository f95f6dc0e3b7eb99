"""`lipsync render`: renders one picture and one recording to an MP4."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from lipsync_server.cli import console
from lipsync_server.cli.check import EXIT_BELOW
from lipsync_server.cli.options import key_values, text_of
from lipsync_server.engines.registry import ENGINES

_ENGINES = f"{', '.join(ENGINES.names[:-1])} or {ENGINES.names[-1]}."


def register(app: typer.Typer) -> None:
    """Add this verb to the command."""
    app.command(cls=_HelpWithOptions)(render)


class _HelpWithOptions(TyperCommand):
    """Lists the engines' options at the end of the help; only --help imports the engines' options for that."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        from lipsync_server.cli.engines import option_list

        super().format_help(ctx, formatter)
        for name in ENGINES.entries:
            typer.echo(f"--option KEY=VALUE with engine {name}:\n{option_list(name)}")


def render(
    image: Annotated[Path, typer.Argument(help="The picture: a face, or a video of one.", show_default=False)],
    audio: Annotated[
        Path | None, typer.Argument(help="The recording of the voice; none with --text.", show_default=False)
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The video to write.", metavar="OUT.mp4")] = Path(
        "lipsync.mp4"
    ),
    engine: Annotated[str | None, typer.Option(help=_ENGINES, show_default="auto")] = None,
    prompt: Annotated[str, typer.Option(help="A description of the video, for engines that use one.")] = "",
    preset: Annotated[str | None, typer.Option(help="quality, balanced or fast.", show_default="balanced")] = None,
    resolution: Annotated[str | None, typer.Option(help="480p or 720p.", show_default="480p")] = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same inputs: same video.", show_default="42")] = None,
    face_index: Annotated[int | None, typer.Option(help="Which face: 0 is the leftmost.")] = None,
    face_box: Annotated[
        tuple[float, float, float, float] | None,
        typer.Option(help="The face to animate, in pixels.", metavar="LEFT TOP RIGHT BOTTOM"),
    ] = None,
    second_audio: Annotated[Path | None, typer.Option(help="The second person's recording, for two people.")] = None,
    text: Annotated[
        str | None,
        typer.Option(help="Words to speak in place of a recording; @FILE reads them from a text file.", metavar="TEXT"),
    ] = None,
    voice: Annotated[
        str | None, typer.Option(help="Voice for --text, such as af_heart or pf_dora.", show_default="of the language")
    ] = None,
    script: Annotated[
        str | None, typer.Option(help="The spoken words, for captions; @FILE reads them from a text file.")
    ] = None,
    captions: Annotated[
        str | None, typer.Option(help="track, burned or off.", show_default="track with a script or text")
    ] = None,
    caption_style: Annotated[
        str | None, typer.Option(help="Look of burned captions: plain, box or words.", show_default="plain")
    ] = None,
    language: Annotated[
        str | None, typer.Option(help="Language of the words, such as pt-BR.", show_default="detected")
    ] = None,
    label: Annotated[str, typer.Option(help='A small visible text, such as "AI generated".')] = "",
    label_corner: Annotated[
        str | None, typer.Option(help="top-left, top-right, bottom-left or bottom-right.", show_default="top-left")
    ] = None,
    check: Annotated[
        bool | None,
        typer.Option(
            "--check/--no-check", help="Check the video; see lipsync check.", show_default="where that costs under 5 %"
        ),
    ] = None,
    sheet: Annotated[
        Path | None, typer.Option(help="Check, and write the contact sheet.", metavar="OUT.jpg", show_default=False)
    ] = None,
    retries_below: Annotated[
        float | None, typer.Option(help="Render again with another seed below this score, such as 0.6.")
    ] = None,
    retries: Annotated[
        int | None, typer.Option(help="How often --retries-below renders again, at most.", show_default="1")
    ] = None,
    bar: Annotated[
        float | None,
        typer.Option(help=f"Check, and end with status {EXIT_BELOW} for a score below this.", min=0, max=1),
    ] = None,
    video_format: Annotated[
        str | None, typer.Option("--format", help="Shape: 9:16, 1:1, 16:9, 4:5 or original.", show_default="original")
    ] = None,
    height: Annotated[int | None, typer.Option(help="Height of the video in pixels.", show_default="as made")] = None,
    fill: Annotated[
        str | None, typer.Option(help="Beside a widened picture: blur or plain.", show_default="blur")
    ] = None,
    lead_silence_s: Annotated[
        float | None, typer.Option("--lead-silence", help="Seconds of silence before the speech.", metavar="SECONDS")
    ] = None,
    loudness_lufs: Annotated[
        float | None, typer.Option("--loudness", help="Loudness of the sound, such as -14.", metavar="LUFS")
    ] = None,
    poster: Annotated[
        Path | None, typer.Option(help="Also write the first frame as a JPEG.", metavar="OUT.jpg")
    ] = None,
    preview: Annotated[
        Path | None, typer.Option(help="Also write a short loop without sound.", metavar="OUT.webp or .gif")
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option(help="An option of the engine; may be given several times.", metavar="KEY=VALUE")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the measured times as one line of JSON.")] = False,
) -> None:
    """Render a picture and a recording to a video."""
    with console.errors_as_sentences():
        from lipsync_server.cli.job import CliJob, ask_from, run_job
        from lipsync_server.media.framing.stills import POSTERS, PREVIEWS, kind_of, write_still

        settings = console.settings_from({"engine": engine})
        ask = ask_from(
            prompt=prompt,
            preset=preset,
            resolution=resolution,
            seed=seed,
            face_index=face_index,
            face_box=face_box,
            options=key_values(option or []),
            text=text_of(text),
            voice=voice,
            script=text_of(script),
            captions=captions,
            caption_style=caption_style,
            language=language,
            label=label or None,
            label_corner=label_corner,
            check=True if bar is not None and check is None else check,
            retries_below=retries_below,
            retries=retries,
            format=video_format,
            height=height,
            fill=fill,
            lead_silence_s=lead_silence_s,
            loudness_lufs=loudness_lufs,
        )
        for path, kinds in ((poster, POSTERS), (preview, PREVIEWS)):
            if path is not None:
                kind_of(path, kinds)  # a wrong file ending is refused before the render
        result = run_job(CliJob(image, audio, output, ask, second_audio, sheet), settings)
        for path, kinds in ((poster, POSTERS), (preview, PREVIEWS)):
            if path is not None:
                write_still(output, path, kind_of(path, kinds), duration_s=result.outcome.duration_s)
        if as_json:
            typer.echo(json.dumps({"engine": result.engine, **dataclasses.asdict(result.outcome)}))
        else:
            console.show_result(result.engine, output, result.outcome)
    quality = result.outcome.quality
    if bar is not None and quality is not None and quality.score is not None and quality.score < bar:
        raise SystemExit(EXIT_BELOW)
