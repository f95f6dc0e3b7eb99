"""Where the transformer's blocks go on this device: the plan before loading, and a smaller one after memory ran out.

memory.py has the arithmetic on sizes; this module hands in the memory that is free on the device now. When memory runs
out all the same, half of the blocks that were to stay on the GPU may stay there from then on (`lower_limit`). Knows the
device and the settings. Does not load anything.
"""

from dataclasses import dataclass

import torch

from lipsync_server.engines.hardware import Gpu
from lipsync_server.engines.infinitetalk.loading import memory
from lipsync_server.engines.infinitetalk.loading.memory import MemoryPlan
from lipsync_server.engines.infinitetalk.loading.single_files import read_config
from lipsync_server.engines.infinitetalk.model.sequence_parallel import several_processes
from lipsync_server.engines.infinitetalk.model.transformer import InfiniteTalkTransformer
from lipsync_server.engines.infinitetalk.published import People, TransformerFiles
from lipsync_server.models.quantization import Quantization
from lipsync_server.settings import EngineSettings

# Working memory of the VAE's encoder in bytes per pixel: what memory.py allows for the decoder. The encoder's largest
# values are of the same size, and it has fewer of them at once.
_ENCODE_BYTES = 12_500


@dataclass(frozen=True)
class Need:
    """The demands of a job on the models. pixels: height x width of the video. passes: forwards of a guided step.
    flashtalk: FlashTalk's weights in place of InfiniteTalk's."""

    people: People
    distilled: bool
    pixels: int
    passes: int
    flashtalk: bool = False


class MemoryPlanner:
    """Plans for one device. compiles: fused and compiled blocks need less working memory."""

    def __init__(self, settings: EngineSettings, gpu: Gpu | None, device: torch.device, *, compiles: bool) -> None:
        self._settings, self._gpu, self._device, self._compiles = settings, gpu, device, compiles
        # The plan of the last attempt to load a transformer.
        self._tried: MemoryPlan | None = None
        # Set when memory has run out: how many blocks may stay on the device from then on.
        self._most_blocks: int | None = None

    def plan(
        self, files: TransformerFiles, need: Need, *, held: InfiniteTalkTransformer | None = None
    ) -> tuple[MemoryPlan, Quantization]:
        """Where the blocks go, and whether 16-bit files are rounded to 8 bits on the way.

        held: a transformer on the device now, whose memory would be free again.
        """
        config = read_config(files)
        free = self.free_bytes()
        if free is not None and held is not None:
            free += _bytes_on_gpu(held)

        def planned(quantization: Quantization) -> MemoryPlan:
            return memory.plan(
                config, quant=quantization, pixels=need.pixels, passes=need.passes, compiled=self._compiles,
                free_bytes=free, offload=self._settings.offload,
            )  # fmt: skip

        if files.rounded_at_load:
            wanted = self._settings.quant
            if wanted == "auto":
                wanted = self._rounding_of(files)
            return self._limited(planned(wanted)), wanted
        if files.quantization != "none":
            return self._limited(planned(files.quantization)), "none"
        wanted = self._settings.quant
        if wanted == "auto":
            fits = planned("none").resident_blocks == config.num_layers
            fp8 = self._gpu is not None and self._gpu.compute_capability >= (8, 9)
            wanted = "none" if fits or self._device.type != "cuda" else "fp8" if fp8 else "int8"
        return self._limited(planned(wanted)), wanted

    def _rounding_of(self, files: TransformerFiles) -> Quantization:
        """8-bit floats stay what they are where the card multiplies them; else whole numbers are as fast and closer."""
        if self._device.type != "cuda":
            return "none"
        keeps_fp8 = files.quantization == "fp8" and self._gpu is not None and self._gpu.compute_capability >= (8, 9)
        return "fp8" if keeps_fp8 else "int8"

    def _limited(self, plan: MemoryPlan) -> MemoryPlan:
        return plan if self._most_blocks is None else plan.with_at_most(self._most_blocks)

    def loads(self, plan: MemoryPlan) -> None:
        """Remember the plan that a transformer is loaded with now."""
        self._tried = plan

    def lower_limit(self) -> bool:
        """After GPU memory ran out: half as many blocks may stay on the GPU from now on.

        False where that cannot help: no block was there, or other processes render the same job, which cannot all
        begin a step again.
        """
        if self._tried is None or self._tried.resident_blocks == 0 or several_processes():
            return False
        self._most_blocks = self._tried.resident_blocks // 2
        return True

    def free_bytes(self) -> int | None:
        """Memory that this process may still take on the device, under its cap; None on the CPU.

        Counts what is free on the device, and what torch has reserved there and does not use.
        """
        if self._device.type != "cuda":
            return None
        free, total = torch.cuda.mem_get_info(self._device)
        reserved = torch.cuda.memory_reserved(self._device)
        allocated = torch.cuda.memory_allocated(self._device)
        fraction = getattr(torch.cuda, "get_per_process_memory_fraction", lambda device: 1.0)(self._device)
        return int(min(free + reserved - allocated, fraction * total - allocated))


def spare_bytes(plan: MemoryPlan) -> int:
    """GPU memory in bytes that `plan` has no use for; 0 on the CPU, and where CLIP is moved out to make room."""
    if plan.free_bytes is None or not plan.keep_encoders:
        return 0
    return plan.free_bytes - plan.weights_bytes - plan.working_bytes


def has_room_to_encode(spare: int, need: Need) -> bool:
    """Whether a picture can be encoded while the GPU does something else."""
    return spare >= need.pixels * _ENCODE_BYTES


def _bytes_on_gpu(model: InfiniteTalkTransformer) -> int:
    """GPU memory that releasing the model would free; streamed blocks share two buffers."""
    storages = (t.untyped_storage() for t in model.parameters() if t.device.type == "cuda")
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
