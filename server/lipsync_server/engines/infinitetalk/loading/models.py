"""The loaded models of one process: the encoders, and one transformer chosen for the job.

A transformer serves one or two people, and presets of many or few steps. A job that needs another transformer replaces
the loaded one. Knows model files and devices. Does not know how memory is planned (planner.py), nor windows or
requests.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from lipsync_server.engines.base import Report
from lipsync_server.engines.infinitetalk.files.encoders import find_encoders, known_prompts
from lipsync_server.engines.infinitetalk.files.transformers import TransformerFiles, choose_transformer
from lipsync_server.engines.infinitetalk.info import chosen_device
from lipsync_server.engines.infinitetalk.loading.memory import MemoryPlan
from lipsync_server.engines.infinitetalk.loading.planner import MemoryPlanner, Need, has_room_to_encode, spare_bytes
from lipsync_server.engines.infinitetalk.loading.single_files import read_config
from lipsync_server.engines.infinitetalk.loading.switch_lora import switch_loras
from lipsync_server.engines.infinitetalk.loading.transformer_files import load_transformer
from lipsync_server.engines.infinitetalk.lora_choice import LoraFile, loras_for, server_loras
from lipsync_server.engines.infinitetalk.model.choose_blocks import use_faster_blocks
from lipsync_server.engines.infinitetalk.model.config import TransformerConfig
from lipsync_server.engines.infinitetalk.model.sequence_parallel import (
    SequenceParallel,
    several_processes,
    way_of_first_process,
)
from lipsync_server.engines.infinitetalk.model.transformer import InfiniteTalkTransformer
from lipsync_server.errors import EngineUnavailable, HostOutOfMemory
from lipsync_server.kernel_choices import parse_choices
from lipsync_server.models.encoders.clip import ImageEncoder
from lipsync_server.models.encoders.known_prompts import KnownPrompts
from lipsync_server.models.encoders.text import TextEncoder
from lipsync_server.models.encoders.wav2vec import Wav2Vec
from lipsync_server.models.kernels import triton_here
from lipsync_server.models.kernels.attention import choose as choose_attention
from lipsync_server.models.kernels.card import chooser_for
from lipsync_server.models.kernels.product_8bit import fastest_kind
from lipsync_server.models.sampling.side_stream import SideStream
from lipsync_server.models.wan_vae.choose_pairs import pairs_are_faster
from lipsync_server.models.wan_vae.vae import WanVae
from lipsync_server.quantization import EightBit, Quantization
from lipsync_server.settings import EngineSettings

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Encoders:
    """The models beside the transformer and the text encoder; every job needs them."""

    known_prompts: KnownPrompts
    clip: ImageEncoder
    vae: WanVae
    wav2vec: Wav2Vec


@dataclass
class _Held:
    """The transformer in memory, and the kind of job for which it was loaded.

    spare_bytes: GPU memory in bytes that stays unused while this job runs; 0 if CLIP has to be moved out to make room.
    """

    model: InfiniteTalkTransformer
    files: TransformerFiles
    loras: tuple[LoraFile, ...]
    plan: MemoryPlan
    spare_bytes: int


class Models:
    """The models of one process, loaded on demand. `close` frees all memory."""

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        device = chosen_device(settings)
        self._gpu = device.gpu
        self.device = torch.device(device.name)
        if self.device.type == "cuda" and not torch.cuda.is_available():
            raise EngineUnavailable(
                "This installation of torch cannot use the GPU. Install a CUDA build of torch, or set device to cpu."
            )
        self.dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        self.side = SideStream(self.device)
        self._compiles = settings.compile and triton_here.why_not(self.device) is None
        self.chooser = chooser_for(
            self.device,
            folder=settings.data_dir / "cache" / "choices",
            fixed=parse_choices(settings.choices),
            agreed=way_of_first_process if several_processes() else lambda way: way,
        )
        self._refuse_what_cannot_run()
        self._planner = MemoryPlanner(settings, self.device, compiles=self._compiles, faster=lambda: self._faster_8bit)
        self._held: _Held | None = None
        self._encoders: _Encoders | None = None
        self._sizes_run: set[tuple[int, int]] = set()

    def _refuse_what_cannot_run(self) -> None:
        """Raise EngineUnavailable for attention settings that this device has no kernel for, before files are read.

        Reading 19 GB first would take a minute, for the same answer.
        """
        if (self._settings.attention, self._settings.attention_density) != ("auto", 1.0):
            choose_attention(
                self._settings.attention,
                self.device,
                self.dtype,
                self._settings.attention_density,
                chooser=self.chooser,
            )

    def refuse_what_does_not_fit(self, need: Need) -> None:
        """Raise HostOutOfMemory where host memory is too small for encoders and transformer, before files are read."""
        self._planner.plan(self._files(need)[0], need, with_encoders=True)

    @property
    def transformer(self) -> InfiniteTalkTransformer:
        """The loaded transformer."""
        assert self._held is not None, "load_transformer() comes first"
        return self._held.model

    @property
    def vae(self) -> WanVae:
        """The loaded VAE."""
        return self._loaded.vae

    @property
    def wav2vec(self) -> Wav2Vec:
        """The loaded speech encoder."""
        return self._loaded.wav2vec

    @property
    def _loaded(self) -> _Encoders:
        assert self._encoders is not None, "load_encoders() comes first"
        return self._encoders

    def load_encoders(self, report: Report) -> None:
        """Load wav2vec2, the VAE and CLIP, unless they are loaded. Raises WeightsError for a missing model file."""
        if self._encoders is not None:
            return
        files = find_encoders(self._settings)
        report("sound and picture encoders", 0, 3)
        wav2vec = Wav2Vec.load(files.wav2vec, device=self.device)
        report("sound and picture encoders", 1, 3)
        vae = self._load_vae(files.vae)
        report("sound and picture encoders", 2, 3)
        # On the host: encode_picture moves it to the device.
        clip_dtype = torch.float16 if self.device.type == "cuda" else torch.float32
        clip = ImageEncoder.load(files.clip, device=torch.device("cpu"), dtype=clip_dtype)
        self._encoders = _Encoders(KnownPrompts(known_prompts(self._settings, files.text.weights)), clip, vae, wav2vec)
        report("sound and picture encoders", 3, 3)

    def _load_vae(self, path: Path) -> WanVae:
        if not self._compiles:
            return WanVae.load(path, device=self.device, dtype=self.dtype)
        pairs = pairs_are_faster(self.device, self.dtype, self.chooser)
        return WanVae.load(path, device=self.device, dtype=self.dtype, kernels=True, pair_columns=pairs)

    def recall(self, choices: Mapping[str, str]) -> None:
        """Compute with these kernel choices from now on, so that a resumed job goes on as its first part began.

        choices: name of a question -> the way taken (models/kernels/choice.py); empty returns to this card's own
        choices. Loads the VAE anew if they differ, and raises as that load does.
        """
        if not self.chooser.recall(choices):
            return
        if self._encoders is not None:
            vae = self._load_vae(find_encoders(self._settings).vae)
            self._encoders = replace(self._encoders, vae=vae)
        if self._held is not None:
            self._held.model.set_attention(self._settings.attention, self._settings.attention_density, self.chooser)
            self._choose_blocks(self._held.model)

    def load_transformer(self, need: Need, report: Report) -> tuple[str, ...]:
        """Load the transformer for a job if necessary. Returns a warning for each option that it does not fulfil."""
        server = server_loras(self._settings)
        files, warnings = self._files(need, server)
        loras = loras_for(server, need.loras, few_steps=need.distilled, merged=files.distilled)
        held = self._held
        if held is not None and held.files == files:
            plan, _ = self._planner.plan(files, need, held=held.model)
            if held.plan.resident_blocks <= plan.resident_blocks:
                held.model.cache_context = held.plan.cache_context and plan.cache_context
                held.spare_bytes = min(spare_bytes(held.plan), spare_bytes(plan))
                self._switch(held, loras, report)
                return warnings
        self._release_transformer()
        plan, quantization = self._planner.plan(files, need)
        self._planner.loads(plan)
        self._load(files, loras, plan, quantization, report)
        return warnings

    def _files(
        self, need: Need, server: tuple[LoraFile, ...] | None = None
    ) -> tuple[TransformerFiles, tuple[str, ...]]:
        """The transformer's files for a job, and warnings. server: `server_loras`, if the caller has them already."""
        known = server_loras(self._settings) if server is None else server
        return choose_transformer(
            self._settings,
            self._gpu,
            people=need.people,
            distilled=need.distilled,
            flashtalk=need.flashtalk,
            has_lora=any(lora.distilled for lora in (*known, *need.loras)),
            faster=self._faster_8bit,
        )

    @cached_property
    def _faster_8bit(self) -> EightBit | None:
        """The 8-bit format that this card multiplies faster in the blocks' largest product; None on a CPU."""
        sizes = TransformerConfig()
        return fastest_kind(3 * sizes.dim, sizes.dim, self.device, self.chooser)

    def _switch(self, held: "_Held", loras: tuple[LoraFile, ...], report: Report) -> None:
        """Merge other LoRA files into the loaded transformer. If the files are the same, nothing changes."""
        if held.loras == loras:
            return
        try:
            switch_loras(
                held.model,
                held.files.source,
                held.files.adapter,
                config=read_config(held.files),
                loras=_merged(loras),
                device=self.device,
                dtype=self.dtype,
                progress=lambda done, total: report("LoRA files", done, total),
            )
        except BaseException:
            # Some parameters may be of one set and some of the other.
            self._release_transformer()
            raise
        held.loras = loras
        log.info("InfiniteTalk: %s", self.describe())

    def make_room(self, need: Need, report: Report) -> bool:
        """After GPU memory ran out: load the transformer again with half as many blocks on the GPU, if that helps."""
        if not self._planner.lower_limit():
            return False
        self._release_transformer()
        self._empty_cache()
        try:
            self.load_transformer(need, report)
        except HostOutOfMemory:
            # The next job may need less GPU memory: it is planned as if nothing had happened.
            self._planner.lift_limit()
            raise
        return True

    def encode_text(self, prompts: list[str], wait: Callable[[], None]) -> list[Tensor]:
        """Embeddings of prompts, (n tokens, 4096) each, in the encoders' dtype: known, from the cache, or made now.

        wait: called again and again while the text encoder is still being downloaded; it sleeps, or raises. Raises
        WeightsError when the download has failed.
        """
        found = {prompt: self._loaded.known_prompts.get(prompt) for prompt in prompts}
        if missing := [prompt for prompt, embedding in found.items() if embedding is None]:
            found |= zip(missing, self._text_encoder(wait).encode(missing), strict=True)
        return [embedding.to(self.device, self.dtype) for prompt in prompts if (embedding := found[prompt]) is not None]

    def _text_encoder(self, wait: Callable[[], None]) -> TextEncoder:
        while (files := find_encoders(self._settings)).text_is_coming:
            wait()
        cache = self._settings.data_dir / "cache" / "infinitetalk-text"
        return TextEncoder(files.text, device=self.device, dtype=self.dtype, cache=cache)

    @torch.inference_mode()
    def encode_picture(self, picture: Tensor) -> Tensor:
        """CLIP tokens (257, 1280) of a picture, float32 (3, H, W) in [-1, 1].

        Without room on the device, CLIP is moved there for this call only.
        """
        clip = self._loaded.clip
        clip.to(self.device)
        tokens = clip.encode(picture)
        if self._held is None or not self._held.plan.keep_encoders:
            clip.to(torch.device("cpu"))
        return tokens

    def encodes_beside(self, need: Need) -> bool:
        """Whether the GPU has room to encode a picture while it computes something else."""
        return self._held is not None and has_room_to_encode(self._held.spare_bytes, need)

    def first_run_of(self, size: tuple[int, int]) -> bool:
        """Whether this process now runs its first window of this height and width, for which kernels are compiled.

        False if several processes share a window, because all of them would have to begin a rehearsal together.
        """
        is_first = size not in self._sizes_run and not several_processes()
        self._sizes_run.add(size)
        return is_first

    def describe(self) -> str:
        """The loaded transformer, its attention and its memory plan in one line, for the log."""
        held = self._held
        if held is None:
            return "nothing loaded"
        name = held.files.source.name if held.files.adapter is None else f"{held.files.people} bf16"
        if held.loras:
            merged = ", ".join(f"{lora.path.name} at {lora.scale:g}" for lora in held.loras)
            name = f"{name} with LoRA {merged}"
        return f"{name} on {self.device}; {held.model.attention_line}; {held.plan.line}"

    def close(self) -> None:
        """Free the memory of all models; they may be loaded again."""
        self._release_transformer()
        self._encoders = None
        self._empty_cache()

    def _load(
        self,
        files: TransformerFiles,
        loras: tuple[LoraFile, ...],
        plan: MemoryPlan,
        quantization: Quantization,
        report: Report,
    ) -> None:
        config = read_config(files)
        model = load_transformer(
            files.source,
            files.adapter,
            config=config,
            device=self.device,
            dtype=self.dtype,
            quant=quantization,
            loras=_merged(loras),
            attention=self._settings.attention,
            attention_density=self._settings.attention_density,
            chooser=self.chooser,
            offload="none" if plan.resident_blocks >= plan.n_blocks else plan.resident_blocks,
            pinned=plan.pinned,
            progress=lambda done, total: report(f"transformer ({files.number_format})", done, total),
        )
        model.cache_context = plan.cache_context
        if self._compiles:
            # Compilation is lazy: the blocks for two people, which have no fused form, are compiled at their first run.
            model.compile_blocks()
        self._choose_blocks(model)
        self._held = _Held(model, files, loras, plan, spare_bytes(plan))
        log.info("InfiniteTalk: %s", self.describe())

    def _choose_blocks(self, model: InfiniteTalkTransformer) -> None:
        """Share the tokens over the processes, and run the blocks in their faster form."""
        if several_processes():
            model.share_tokens(SequenceParallel(model.config.num_heads))
        if not self._compiles:
            return
        # Blocks that exchange tokens cannot be timed alone: the other processes would have to take part.
        reason = model.use_fast_blocks() if several_processes() else use_faster_blocks(model, self.chooser)
        if reason is not None:
            log.warning("the blocks are not fused: %s", reason)

    def _release_transformer(self) -> None:
        if self._held is not None:
            self._held.model.close()
            self._held = None
            self._empty_cache()

    def _empty_cache(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def _merged(loras: tuple[LoraFile, ...]) -> list[tuple[Path, float]]:
    return [(lora.path, lora.scale) for lora in loras]
