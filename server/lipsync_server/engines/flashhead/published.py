"""Finds FlashHead's published model files, and names the missing ones. Imports no torch.

Folder names are the published ones, below settings.weights_dir. Two files are also part of other downloads and are
found there too: Wan's VAE beside InfiniteTalk's base, and the sound encoder beside the other folders. Knows names only;
the loaders check the contents.
"""

from dataclasses import dataclass
from pathlib import Path

from lipsync_server.engines.flashhead.options import Variant
from lipsync_server.errors import WeightsError
from lipsync_server.settings import EngineSettings

FOLDER = "SoulX-FlashHead-1_3B"
MODEL_FOLDERS: dict[Variant, str] = {"pro": "Model_Pro", "lite": "Model_Lite"}
PROFILES: dict[Variant, str] = {"pro": "flashhead-pro", "lite": "flashhead-lite"}
WAN_VAE = "Wan2.1_VAE.pth"
LTX_VAE = "VAE_LTX"
SOUND = "wav2vec2-base-960h"
ENHANCER_FOLDERS = (FOLDER, "sadtalker")
_WEIGHTS = "diffusion_pytorch_model"


@dataclass(frozen=True)
class PublishedFiles:
    """The files of one variant.

    model: folder of the transformer. vae: Wan's .pth, or the folder of the LTX VAE. sound: folder of the speech
    encoder.
    """

    variant: Variant
    model: Path
    vae: Path
    sound: Path

    @property
    def n_bytes(self) -> int:
        """Size of the transformer on disk."""
        return sum(path.stat().st_size for path in self.model.glob(f"{_WEIGHTS}*.safetensors"))


def find_files(settings: EngineSettings, variant: Variant) -> PublishedFiles:
    """The files of `variant`. Raises WeightsError with the missing files and the command that downloads them."""
    weights, folder = settings.weights_dir, settings.weights_dir / FOLDER
    model = folder / MODEL_FOLDERS[variant]
    missing = [] if (model / "config.json").is_file() else [model / "config.json"]
    if not any(model.glob(f"{_WEIGHTS}*.safetensors")):
        missing.append(model / f"{_WEIGHTS}.safetensors")
    if variant == "pro":
        vae = _first(folder / "VAE_Wan" / WAN_VAE, weights / "Wan2.1-I2V-14B-480P" / WAN_VAE)
        needed = [vae]
    else:
        vae = folder / LTX_VAE
        needed = [vae / "config.json", vae / f"{_WEIGHTS}.safetensors"]
    sound = _first(weights / SOUND / "config.json", folder / SOUND / "config.json").parent
    encoder = _first(sound / "model.safetensors", sound / "pytorch_model.bin")
    missing += [path for path in (*needed, sound / "config.json", encoder) if not path.is_file()]
    if missing:
        names = ", ".join(str(path.relative_to(weights)) for path in missing)
        raise WeightsError(
            f"FlashHead's weights in {weights} are not complete; missing: {names}. Download them with: "
            f"lipsync weights pull {PROFILES[variant]}."
        )
    return PublishedFiles(variant, model, vae, sound)


def choose_files(settings: EngineSettings, variant: Variant | None) -> PublishedFiles:
    """The files of the requested variant; for None the files of pro, or of lite if only lite was downloaded.

    Raises WeightsError about the requested variant, or about pro.
    """
    if variant is not None:
        return find_files(settings, variant)
    try:
        return find_files(settings, "pro")
    except WeightsError as error:
        try:
            return find_files(settings, "lite")
        except WeightsError:
            raise error from None


def _first(*paths: Path) -> Path:
    """The first path that exists, else the first path."""
    return next((path for path in paths if path.exists()), paths[0])
