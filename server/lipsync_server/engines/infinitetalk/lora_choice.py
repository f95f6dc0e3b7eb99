"""Which LoRA files a job is rendered with: the server's for presets of few steps, and those that the job names.

A step-distilled LoRA lets the model take 4 or 8 steps in place of 40. Presets of few steps need one unless the model
files have it merged. It is known by its name, by its shape (a change of every linear layer and bias, as the difference
of two whole models has), or because the owner declares it. Jobs name files of one folder, and no paths. The files are
checked from their headers when a job is accepted: each must lie in the folder, hold a LoRA, and change layers that the
model has. Knows settings and headers. Does not know the mathematics (loading/lora.py); no torch here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from lipsync_server.engines.infinitetalk.files.lora_keys import read_keys
from lipsync_server.engines.infinitetalk.files.lora_names import LayerNames
from lipsync_server.engines.infinitetalk.files.places import step_distilled_loras
from lipsync_server.engines.infinitetalk.files.recognise import BASE_SIGN, is_step_distilled, recognise
from lipsync_server.engines.infinitetalk.files.transformers import TransformerFiles, find_flashtalk, find_transformers
from lipsync_server.errors import InvalidInput, WeightsError
from lipsync_server.models.tensor_files.headers import known_entries, plain_name
from lipsync_server.settings import EngineSettings
from lipsync_server.validation import nearest, show
from lipsync_server.weights.places import model_files, roots

DECLARED = "distilled"
# Kinds of tensors that only the difference of two whole models has, in every block.
_WHOLE_MODEL = ("self_attn_q_diff_b", "ffn_0_diff_b", "cross_attn_k_img_diff_b")
_MOST_NAMES_SHOWN = 40


def _name_alone(name: str) -> str:
    if any(character in "/\\" or ord(character) < 32 for character in name) or name.startswith("."):
        raise ValueError("it should be the name of a file in the owner's folder, without a path")
    return name


class LoraWish(BaseModel):
    """A LoRA file that a job asks for. A name alone stands for the file at scale 1."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: Annotated[str, AfterValidator(_name_alone)] = Field(
        min_length=1, max_length=200, description="The file's name in the owner's folder, without a path."
    )
    scale: float = Field(default=1.0, ge=-4, le=4, description="Strength of the file's change to the model; 0 is none.")

    @model_validator(mode="before")
    @classmethod
    def _of_a_name(cls, value: object) -> object:
        return {"name": value} if isinstance(value, str) else value


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
    """The files for presets of few steps: the files of LIPSYNC_LORA, or a step-distilled one in the weights folder."""
    if settings.lora:
        return tuple(_of_setting(entry) for entry in settings.lora)
    return tuple(_file(path, 1.0) for path in step_distilled_loras(settings)[:1])


def job_loras(settings: EngineSettings, wishes: Sequence[LoraWish]) -> tuple[LoraFile, ...]:
    """The files that a job names. Raises InvalidInput for one that the owner's folder does not have or that does not
    fit the model."""
    if not wishes:
        return ()
    folder = settings.lora_dir
    if folder is None:
        raise InvalidInput(
            "This server offers no LoRA files; its owner can name a folder with LIPSYNC_LORA_DIR.", field="loras"
        )
    places = [root.resolve() for root in roots(folder)]
    if not places:
        raise InvalidInput(
            "The server's folder of LoRA files (LIPSYNC_LORA_DIR) is not there; its owner has to mend that.",
            field="loras",
        )
    files = [path for path in model_files(folder) if path.suffix == ".safetensors"]
    model = _Model.of(settings)
    return tuple(_file(_named(wish.name, files, places, model), wish.scale) for wish in wishes)


def _named(name: str, files: Sequence[Path], places: Sequence[Path], model: "_Model | None") -> Path:
    """The file of this name, or of this name without its ending. Errors name no folder of the server."""
    found = [path for path in files if name in (path.name, path.stem)]
    if not found:
        known = sorted({path.stem for path in files if _is_offered(path, places, model)}, key=str.lower)
        more = f" and {len(known) - _MOST_NAMES_SHOWN} more" if len(known) > _MOST_NAMES_SHOWN else ""
        hint = f" Did you mean {near!r}?" if (near := nearest(name, known)) else ""
        raise InvalidInput(
            f"There is no LoRA named {show(name)} here; there are: {', '.join(known[:_MOST_NAMES_SHOWN]) or 'none'}"
            f"{more}.{hint}",
            field="loras",
        )
    if len(found) > 1:
        raise InvalidInput(
            f"{len(found)} LoRA files here are named {show(name)}; the server's owner has to rename one.", field="loras"
        )
    [path] = found
    if why := _why_not(path, places, model):
        raise InvalidInput(why, field="loras")
    return path


def _is_offered(path: Path, places: Sequence[Path], model: "_Model | None") -> bool:
    file = recognise(path)
    fits = model is None or file.width in (0, model.width)
    return file.kind == "lora" and fits and _is_inside(path, places)


def _why_not(path: Path, places: Sequence[Path], model: "_Model | None") -> str | None:
    """The reason why this file cannot be used, from its header; None if it can."""
    if not _is_inside(path, places):
        return (
            f"{path.name} is a link to a file outside of the server's LoRA folder, and is not used; the owner has to "
            "put the file itself there."
        )
    file = recognise(path)
    if file.kind == "damaged":
        return f"{path.name} is damaged or no safetensors file; the server's owner has to download it again."
    if file.kind != "lora":
        return f"{path.name} is no LoRA file: it has none of a LoRA's tensors."
    if model is None:
        return None
    if file.width not in (0, model.width):
        return f"{path.name} was made for a model of width {file.width}; the one here has {model.width}."
    try:
        read_keys(path.name, (entry.key for entry in known_entries(path)), model.layers)
    except WeightsError as error:
        return error.detail
    return None


def _is_inside(path: Path, places: Sequence[Path]) -> bool:
    real = path.resolve()
    return any(real.is_relative_to(place) for place in places)


@dataclass(frozen=True)
class _Model:
    """The names of the layers and the width of the transformer that a LoRA has to fit, from its files' headers."""

    layers: LayerNames
    width: int

    @classmethod
    def of(cls, settings: EngineSettings) -> "_Model | None":
        """The model whose files are here, None where none is. Every transformer of this engine has the same layers."""
        found = [*find_transformers(settings), *find_flashtalk(settings)]
        if not found:
            return None
        entries = [entry for path in _paths(found[0]) for entry in known_entries(path)]
        shapes = {plain_name(entry.key): entry.shape for entry in entries}
        width = shapes[BASE_SIGN][0] if BASE_SIGN in shapes else 0
        return cls(LayerNames({name.rpartition(".")[0] for name in shapes}), width)


def _paths(files: TransformerFiles) -> list[Path]:
    """Every file that holds tensors of this transformer."""
    source = files.source
    own = [source] if source.is_file() else sorted(source.glob("diffusion_pytorch_model*.safetensors"))
    return own if files.adapter is None else [*own, files.adapter]


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
    names = {entry.key.replace(".", "_") for entry in known_entries(path)}
    return all(any(name.endswith(kind) for name in names) for kind in _WHOLE_MODEL)
