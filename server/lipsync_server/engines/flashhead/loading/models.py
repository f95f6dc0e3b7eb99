"""The loaded models of one process: one variant's transformer and VAE, and the sound encoder.

One variant is loaded at a time. A job for the other variant replaces it. Knows files and devices. Does not know windows
or requests.
"""

import gc
import logging
from collections.abc import Callable, Mapping

import torch

from lipsync_server.engines.flashhead.info import chosen_device
from lipsync_server.engines.flashhead.loading.convert import keep_converted
from lipsync_server.engines.flashhead.loading.transformer_files import load_transformer
from lipsync_server.engines.flashhead.model.transformer import FlashHeadTransformer
from lipsync_server.engines.flashhead.options import Variant
from lipsync_server.engines.flashhead.published import ENHANCER_FOLDERS, PublishedFiles, choose_files
from lipsync_server.engines.flashhead.video.window_loop import VideoVae
from lipsync_server.errors import EngineUnavailable
from lipsync_server.kernel_choices import parse_choices
from lipsync_server.models import enhance
from lipsync_server.models.encoders.wav2vec import Wav2Vec
from lipsync_server.models.kernels import triton_here
from lipsync_server.models.kernels.card import chooser_for
from lipsync_server.models.layers.linear_8bit import use_fastest_tiles
from lipsync_server.models.wan_vae.choose_pairs import pairs_are_faster
from lipsync_server.models.wan_vae.vae import WanVae
from lipsync_server.quantization import EightBit
from lipsync_server.settings import EngineSettings

log = logging.getLogger(__name__)
Report = Callable[[str, float, float], None]
_SMALLER: EightBit = "int8"
"""The 8-bit form that every NVIDIA GPU since Turing multiplies in."""


class Models:
    """The models of one process, loaded on demand. `close` frees all memory."""

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        self.device = torch.device(chosen_device(settings).name)
        if self.device.type == "cuda" and not torch.cuda.is_available():
            raise EngineUnavailable(
                "This installation of torch cannot use the GPU. Install a CUDA build of torch, or set device to cpu."
            )
        self.dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        self._compiles = settings.compile and triton_here.why_not(self.device) is None
        self.chooser = chooser_for(
            self.device, folder=settings.data_dir / "cache" / "choices", fixed=parse_choices(settings.choices)
        )
        # 16-bit weights fit on every card from 8 GB on. 8 bits are used if the owner sets them, or after memory ran
        # out.
        self._kind: EightBit | None = settings.quant if settings.quant in ("int8", "fp8") else None
        self._files: PublishedFiles | None = None
        self._transformer: FlashHeadTransformer | None = None
        self._vae: VideoVae | None = None
        self._sound: Wav2Vec | None = None
        self._enhancer: enhance.Enhancer | None = None

    @property
    def transformer(self) -> FlashHeadTransformer:
        """The loaded transformer."""
        assert self._transformer is not None, "load() comes first"
        return self._transformer

    @property
    def vae(self) -> VideoVae:
        """The loaded VAE."""
        assert self._vae is not None, "load() comes first"
        return self._vae

    @property
    def sound(self) -> Wav2Vec:
        """The loaded speech encoder."""
        assert self._sound is not None, "load() comes first"
        return self._sound

    def recall(self, choices: Mapping[str, str]) -> None:
        """Compute with these choices from the next `load` on, as the first part of a resumed job did.

        An empty mapping returns to this card's own choices.
        """
        if self.chooser.recall(choices):
            self._files = None

    def load(self, variant: Variant | None, report: Report) -> None:
        """Load the models of `variant`. Returns at once if they are already loaded."""
        files = choose_files(self._settings, variant)
        if self._files == files:
            return
        self._files = self._transformer = self._vae = None
        self._give_memory_back()
        if self._sound is None:
            report("sound encoder", 0, 1)
            self._sound = Wav2Vec.load(files.sound, device=self.device)
        report("picture encoder", 0, 1)
        self._vae = self._load_vae(files)
        self._transformer = load_transformer(
            files.model,
            device=self.device,
            dtype=self.dtype,
            attention=self._settings.attention,
            chooser=self.chooser,
            progress=lambda done, total: report("transformer", done, total),
        )
        how = self._speed_up(self._transformer)
        if self.dtype == torch.bfloat16:
            keep_converted(files.model)
        self._files = files
        log.info("FlashHead %s on %s; %s; %s", files.variant, self.device, self._transformer.attention, how)

    def make_room(self) -> bool:
        """After GPU memory ran out: round the weights to 8 bits, which frees 1.4 GB.

        False if they are already rounded.
        """
        if self._kind is not None:
            return False
        self._kind = _SMALLER
        if self._files is not None:
            how = self._speed_up(self.transformer)
            log.warning("FlashHead: the GPU's memory ran out; the weights are held in 8 bits now; %s", how)
        self._give_memory_back()
        return True

    def _speed_up(self, transformer: FlashHeadTransformer) -> str:
        """Round the weights if the settings say so, then fuse or compile the blocks. Returns the line for the log."""
        weights = "16-bit weights"
        if self._kind is not None:
            transformer.round_weights(self._kind)
            use_fastest_tiles(transformer, self.device, self.chooser)
            weights = f"{self._kind} weights"
        if not self._compiles:
            return f"{weights}, plain blocks"
        why_not = transformer.use_fast_blocks()
        if why_not is None:
            return f"{weights}, fused blocks"
        transformer.compile_blocks()
        return f"{weights}, compiled blocks (fused ones not: {why_not})"

    def enhancer(self) -> enhance.Enhancer:
        """The face restorer, loaded by the first job with option enhance. Raises as enhance.load_enhancer does."""
        if self._enhancer is None:
            folders = [self._settings.weights_dir / name for name in ENHANCER_FOLDERS]
            folder = next((folder for folder in folders if (folder / enhance.FILE).is_file()), folders[0])
            self._enhancer = enhance.load_enhancer(folder, self.device)
        return self._enhancer

    def close(self) -> None:
        """Free the memory of all models; they may be loaded again."""
        self._files = self._transformer = self._vae = self._sound = self._enhancer = None
        self._give_memory_back()

    def _load_vae(self, files: PublishedFiles) -> VideoVae:
        if files.variant == "pro":
            if not self._compiles:
                return WanVae.load(files.vae, device=self.device, dtype=self.dtype)
            pairs = pairs_are_faster(self.device, self.dtype, self.chooser)
            return WanVae.load(files.vae, device=self.device, dtype=self.dtype, kernels=True, pair_columns=pairs)
        # Imported here: only Lite needs it.
        from lipsync_server.models.ltx_vae import LtxVae

        return LtxVae.load(files.vae, device=self.device, dtype=self.dtype)

    def _give_memory_back(self) -> None:
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
