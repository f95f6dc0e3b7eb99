"""The check of a rendered video: decide whether to run it, run it, and put its result into the outcome.

The worker checks the finished video in its own process, frame by frame, so that memory does not grow with the length.
If the check fails, the video is delivered all the same, and the outcome says why there is no result. Knows the check
and the caller's options for it; knows no engine and no job.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lipsync_server.check.quality import Quality
from lipsync_server.engines.ask import Ask
from lipsync_server.engines.base import EngineOptions, RenderRequest
from lipsync_server.errors import Cancelled, LipsyncError
from lipsync_server.media.sandbox.pool import DecoderPool
from lipsync_server.settings import RenderSettings

log = logging.getLogger(__name__)

# The estimated time of a check; docs/quality-check.md has the measurement. Starting costs the same for every video. Up
# to _EACH_FRAME_UP_TO_S the check searches every frame for the mouth, in a longer video every second one
# (check/watch.py).
_START_S = 1.2
_EACH_FRAME_UP_TO_S = 30.0
_S_PER_S_EACH_FRAME, _S_PER_S_EVERY_SECOND = 0.35, 0.2
MAX_SHARE = 0.05
"""The largest share of the render's time for a check that the caller did not request."""


@dataclass(frozen=True)
class Checked:
    """The result of a check. quality: None for an unchecked video. why_not: then the reason, for the caller."""

    quality: Quality | None
    why_not: str = ""


def check_s(duration_s: float) -> float:
    """The estimated seconds of processor time that checking a video of `duration_s` seconds takes."""
    short = duration_s <= _EACH_FRAME_UP_TO_S
    return _START_S + duration_s * (_S_PER_S_EACH_FRAME if short else _S_PER_S_EVERY_SECOND)


def why_too_dear(duration_s: float, render_s: float) -> str | None:
    """Why a check that the caller did not request is left out; None if it is cheap compared with the render."""
    share = check_s(duration_s) / max(render_s, 1e-6)
    if share <= MAX_SHARE:
        return None
    return (
        f"The check would have taken about {share:.0%} of the render's time, more than the {MAX_SHARE:.0%} up to "
        "which it is made by itself. Send check=true for every video to be checked."
    )


@dataclass(frozen=True)
class Retries:
    """n_most: how often a video may be rendered again; None for once, whatever its score.

    warning: a sentence for the caller who asked for more; "" for none.
    """

    n_most: int | None
    warning: str = ""


def retries_for(ask: Ask, engine: str, options_model: type[EngineOptions], settings: RenderSettings) -> Retries:
    """The retries that a caller asked for, within what the engine and the owner allow."""
    if ask.retries_below is None:
        given = "retries has no effect without retries_below, the score below which to render again."
        return Retries(None, given if ask.retries > 1 else "")
    if not options_model.seed_moves_mouth:
        return Retries(
            None,
            f"Engine {engine} moves the mouth by the sound alone, so that another seed would give the same mouth: the "
            "video was rendered once, whatever its score.",
        )
    if ask.retries > settings.max_retries:
        most = settings.max_retries
        return Retries(most, f"This server renders a video again at most {most} times (LIPSYNC_MAX_RETRIES).")
    return Retries(ask.retries)


def check_rendered(
    video: Path,
    request: RenderRequest,
    engine: str,
    *,
    sheet: Path | None,
    scratch: Path,
    decoders: DecoderPool,
    on_progress: Callable[[float], None],
    stop_if_cancelled: Callable[[], None],
) -> Checked:
    """Check `video`, which `engine` rendered from `request`. sheet: path of the contact sheet, None for no sheet."""
    # The check's libraries take half a second to import, so a render without a check does not import them.
    from lipsync_server.check.judge import NoScore
    from lipsync_server.check.origin import moves_by_prediction
    from lipsync_server.check.video import check_video
    from lipsync_server.engines.landmarks import landmarker

    no_score: NoScore | None = None
    if moves_by_prediction(engine):
        no_score = "by_prediction"
    elif request.second_speech is not None:
        no_score = "two_people"
    try:
        quality = check_video(
            video,
            scratch,
            decoders,
            sheet=sheet,
            duration_s=request.n_frames / request.fps,
            expects_face=bool(landmarker().detect(request.picture, max_faces=1)),
            no_score=no_score,
            on_progress=on_progress,
            stop_if_cancelled=stop_if_cancelled,
        )
    except Cancelled:
        raise
    except LipsyncError as error:
        return Checked(None, f"The video could not be checked: {error.detail}")
    except Exception as error:  # a fault of the check must not cost the caller the finished video
        log.exception("checking %s failed", video)
        return Checked(None, f"The video could not be checked ({type(error).__name__}); the server's log says more.")
    return Checked(quality)
