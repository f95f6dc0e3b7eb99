"""FlashTalk: InfiniteTalk's networks with other weights, distilled to four denoising steps, and their settings.

Distilled means trained to make in few steps the video that the original makes in 40. SoulX-FlashTalk-14B has
InfiniteTalk's 1,633 tensors in one folder, with nothing to merge. It was trained on windows of 33 frames, one forward a
step, one person, and portraits of 448 x 768; other formats work. Knows file names and numbers. Imports no torch.
"""

from lipsync_server.engines.infinitetalk.files.places import FLASHTALK_FOLDER
from lipsync_server.engines.infinitetalk.files.transformers import People, find_flashtalk, find_transformers
from lipsync_server.engines.infinitetalk.options import Options
from lipsync_server.engines.infinitetalk.video.sizes import BUCKETS, Resolution
from lipsync_server.errors import InvalidInput, WeightsError
from lipsync_server.settings import EngineSettings

WINDOW_FRAMES, MOTION_FRAMES, SHIFT = 33, 5, 5.0
STEPS = {"quality": 4, "balanced": 4, "fast": 2}
DISTILLED_STEPS = (2, 4)
OWN_SIZE = (768, 448)
"""(height, width) that the weights were trained at."""
USED = (
    "This video was made with FlashTalk, which presets of few steps prefer where its weights are. Set model to "
    "infinitetalk for InfiniteTalk's own."
)


def wants_flashtalk(settings: EngineSettings, options: Options, *, people: People, still: bool) -> bool:
    """Whether a job runs on FlashTalk's weights.

    True if the caller names FlashTalk, if a preset of few steps can use its files, or if there are no other files.

    still: the picture is no video; on videos FlashTalk is poor. Raises InvalidInput when the caller asks for FlashTalk
    and for something that FlashTalk cannot do, WeightsError when its files are missing.
    """
    here = bool(find_flashtalk(settings))
    if options.model == "flashtalk":
        if people == "multi":
            raise InvalidInput(
                "FlashTalk drives one person, and this request has two. Use model infinitetalk.", field="model"
            )
        if not here:
            raise WeightsError(
                f"FlashTalk's weights are not complete in {settings.weights_dir / FLASHTALK_FOLDER}. Download "
                "them with: lipsync weights pull flashtalk."
            )
        return True
    if options.model != "auto" or not here or people == "multi":
        return False
    return (options.sampling.distilled and still) or not find_transformers(settings)


def flashtalk_options(options: Options) -> Options:
    """`options` with FlashTalk's numbers wherever the caller gave none."""
    given = options.model_fields_set
    own: dict[str, object] = {
        "steps": STEPS[options.preset] if options.steps is None else options.steps,
        "shift": SHIFT if options.shift is None else options.shift,
        "window_frames": options.window_frames if "window_frames" in given else WINDOW_FRAMES,
        "motion_frames": options.motion_frames if "motion_frames" in given else MOTION_FRAMES,
        # FlashTalk makes one forward a step, so it has no guidance and none of guidance's settings.
        "text_guidance": 1.0,
        "audio_guidance": 1.0,
        "guidance_interval": 1,
        "teacache": 0.0,
        "apg": False,
        "camera_move": bool(options.camera_move),
    }
    return options.model_copy(update=own)


def flashtalk_size(height: int, width: int, resolution: Resolution) -> tuple[int, int]:
    """The (height, width) whose ratio is nearest to the picture's; of two equally near sizes the trained one."""
    ratio = height / width
    own = OWN_SIZE[0] / OWN_SIZE[1]
    nearest = min(BUCKETS[resolution], key=lambda label: abs(label - ratio))
    return OWN_SIZE if abs(own - ratio) <= abs(nearest - ratio) else BUCKETS[resolution][nearest]


def warnings_for(options: Options, size: tuple[int, int]) -> list[str]:
    """Warnings for the caller: another format or number of steps than the weights were trained for.

    size: (height, width) of the video in pixels.
    """
    warnings = []
    if size != OWN_SIZE:
        warnings.append(
            f"FlashTalk was trained for portraits of 448 x 768; {size[1]} x {size[0]} works and may look worse. Model "
            "infinitetalk was trained for all formats."
        )
    if options.steps not in DISTILLED_STEPS:
        warnings.append(f"FlashTalk was trained for 2 or 4 steps; {options.steps} steps may look worse than 4.")
    return warnings
