"""Which LoRA files a job is rendered with: the server's for presets of few steps, and those that the job names.

A step-distilled LoRA lets the model take 4 or 8 steps in place of 40. Presets of few steps need one unless the model
files have it merged. It is known by its name, by its shape (a change of every linear layer and bias, as the difference
of two whole models has), or because the owner declares it. Jobs name files of one folder, and no paths. Knows settings
and headers. Does not know the mathematics (loading/lora.py); no torch here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lipsync_server.engines.infinitetalk.files.places import step_distilled_loras
from lipsync_server.engines.infinitetalk.files.recognise import is_step_distilled, recognise
from lipsync_server.engines.infinitetalk.options import LoraWish
from lipsync_server.errors import InvalidInput, WeightsError
from lipsync_server.models.tensor_files.headers import known_entries
from lipsync_server.settings import EngineSettings
from lipsync_server.weights.places import model_files

DECLARED = "distilled"
# Kinds of tensors that only the difference of two whole models has, in every block.
_WHOLE_MODEL = ("self_attn.q.diff_b", "ffn.0.diff_b", "cross_attn.k_img.diff_b")


@dataclass(frozen=True)
class LoraFile:
    """A LoRA file, how strongly it is added, and whether it lets the model take few steps.

    stamp: the file's size and time, so that a replaced file is merged anew.
    """

    path: Path
    scale: float
    distilled: bool
    stamp: tuple[int, int]


def server_loras(settings: EngineSettings) -> tuple[LoraFile, ...]:
    """The files for presets of few steps: those of LIPSYNC_LORA, else a step-distilled one below the weights folder."""
    if settings.lora:
        return tuple(_of_setting(entry) for entry in settings.lora)
    return tuple(_file(path, 1.0) for path in step_distilled_loras(settings)[:1])


def job_loras(settings: EngineSettings, wishes: Sequence[LoraWish]) -> tuple[LoraFile, ...]:
    """The files that a job names. Raises InvalidInput for a name that the owner's folder does not have."""
    if not wishes:
        return ()
    folder = settings.lora_dir
    if folder is None:
        raise InvalidInput(
            "this server offers no LoRA files; its owner can name a folder with LIPSYNC_LORA_DIR.", field="loras"
        )
    known = {path.name: path for path in model_files(folder) if path.suffix == ".safetensors"}
    known |= {path.stem: path for path in known.values()}
    files = []
    for wish in wishes:
        if wish.name not in known:
            names = ", ".join(sorted(path.stem for path in set(known.values()))) or "none"
            raise InvalidInput(f"there is no LoRA named {wish.name!r} here; there are: {names}.", field="loras")
        files.append(_file(known[wish.name], wish.scale))
    return tuple(files)


def loras_for(
    server: Sequence[LoraFile], job: Sequence[LoraFile], *, few_steps: bool, merged: bool
) -> tuple[LoraFile, ...]:
    """The files of one job in the order in which they are merged.

    few_steps: the preset takes few. merged: the model files have a step-distilled LoRA already. A job that names a
    step-distilled LoRA of its own has it in place of the server's.
    """
    own = any(lora.distilled for lora in job)
    return (*(server if few_steps and not merged and not own else ()), *job)


def _of_setting(entry: str) -> LoraFile:
    """`path`, `path:scale` or `path:scale:distilled`."""
    rest, declared = (entry.removesuffix(f":{DECLARED}"), entry.endswith(f":{DECLARED}"))
    path, colon, scale = rest.rpartition(":")
    try:
        found, factor = (Path(path), float(scale)) if colon else (Path(rest), 1.0)
    except ValueError:
        found, factor = Path(rest), 1.0
    if not found.is_file():
        raise WeightsError(
            f"The LoRA file {found} is missing. Set LIPSYNC_LORA to path, path:scale or path:scale:distilled."
        )
    return _file(found, factor, declared=declared)


def _file(path: Path, scale: float, *, declared: bool = False) -> LoraFile:
    stat = path.stat()
    distilled = declared or is_step_distilled(path.name) or _has_the_shape(path)
    return LoraFile(path, scale, distilled, (stat.st_size, stat.st_mtime_ns))


def _has_the_shape(path: Path) -> bool:
    """Whether the file changes the biases of every kind of layer, as no LoRA that was trained as one does."""
    if recognise(path).kind != "lora":
        return False
    names = {entry.key for entry in known_entries(path)}
    return all(any(name.endswith(kind) for name in names) for kind in _WHOLE_MODEL)
