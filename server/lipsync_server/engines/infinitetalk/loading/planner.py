"""Plans which transformer blocks stay on this device: before loading, and with fewer blocks after memory ran out.

memory.py has the arithmetic on sizes; this module passes it the memory that is free on the device and on the host now.
Where host memory is short, blocks wait in plain memory instead of pinned memory, then in 8 bits instead of 16; else the
plan is refused, because otherwise the kernel would kill the process without a message. When GPU memory runs out all the
same, the number of blocks on the GPU is halved from then on (`lower_limit`). Knows the device and the
settings. Does not load anything.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist

from lipsync_server.engines.host_memory import HostMemory, host_memory
from lipsync_server.engines.infinitetalk.files.transformers import People, TransformerFiles
from lipsync_server.engines.infinitetalk.loading import memory
from lipsync_server.engines.infinitetalk.loading.memory import MemoryPlan
from lipsync_server.engines.infinitetalk.loading.single_files import read_config
from lipsync_server.engines.infinitetalk.lora_choice import LoraFile
from lipsync_server.engines.infinitetalk.model.sequence_parallel import several_processes
from lipsync_server.engines.infinitetalk.model.transformer import InfiniteTalkTransformer
from lipsync_server.errors import EngineUnavailable, HostOutOfMemory
from lipsync_server.quantization import EightBit, Quantization
from lipsync_server.settings import EngineSettings

log = logging.getLogger(__name__)

# Working memory of the VAE's encoder in bytes per pixel: the same as memory.py's figure for the decoder. The encoder's
# largest tensors have the same size, and fewer of them exist at once.
_ENCODE_BYTES = 12_500


@dataclass(frozen=True)
class Need:
    """The demands of a job on the models. pixels: height x width of the video. passes: forwards of a guided step.
    flashtalk: FlashTalk's weights in place of InfiniteTalk's. loras: the files that the job names."""

    people: People
    distilled: bool
    pixels: int
    passes: int
    flashtalk: bool = False
    loras: tuple[LoraFile, ...] = ()


class MemoryPlanner:
    """Plans for one device.

    compiles: fused and compiled blocks need less working memory. host: asks for the host's memory. faster: the 8-bit
    format that this card multiplies faster, measured (models/kernels/product_8bit.fastest_kind); None without one.
    """

    def __init__(
        self,
        settings: EngineSettings,
        device: torch.device,
        *,
        compiles: bool,
        host: Callable[[], HostMemory | None] = host_memory,
        faster: Callable[[], EightBit | None] = lambda: None,
    ) -> None:
        self._settings, self._device, self._compiles = settings, device, compiles
        self._host, self._faster = host, faster
        # The plan of the last attempt to load a transformer.
        self._tried: MemoryPlan | None = None
        # The largest number of blocks that may stay on the device; set when memory has run out.
        self._most_blocks: int | None = None

    def plan(
        self,
        files: TransformerFiles,
        need: Need,
        *,
        held: InfiniteTalkTransformer | None = None,
        with_encoders: bool = False,
    ) -> tuple[MemoryPlan, Quantization]:
        """The memory plan, and the number format in which the weights are held.

        held: the transformer on the device now; its memory counts as free. with_encoders: the encoders are to be loaded
        too. Raises HostOutOfMemory where no form of the transformer fits into host memory, and EngineUnavailable where
        the GPU has no room to work even with every block in host memory.
        """
        config = read_config(files)
        free = self.free_bytes()
        if free is not None and held is not None:
            free += _bytes_on_gpu(held)

        def planned(quantization: Quantization) -> MemoryPlan:
            return self._limited(
                memory.plan(
                    config, quant=quantization, pixels=need.pixels, passes=need.passes, compiled=self._compiles,
                    free_bytes=free, offload=self._settings.offload, with_encoders=with_encoders,
                )
            )  # fmt: skip

        if files.quantization != "none" and not files.rounded_at_load:
            wanted: Quantization = "int8" if files.quantization == "fp8" and self._rounds_fp8_anew() else "none"
            kind = files.quantization if wanted == "none" else wanted
            forms: list[tuple[MemoryPlan, Quantization]] = [(planned(kind), wanted)]
        else:
            wanted = self._rounding_at_load(files, planned)
            forms = [(planned(wanted), wanted)]
            if wanted == "none" and self._settings.quant == "auto" and self._device.type == "cuda":
                smaller = self._eight_bit()
                forms.append((planned(smaller), smaller))
        _refuse_what_the_gpu_cannot_hold(forms[-1][0])
        # A held transformer has its host memory already. If it has to be replaced, `plan` is called again without it.
        return forms[0] if held is not None else self._fitting_the_host(forms)

    def _rounding_at_load(self, files: TransformerFiles, planned: Callable[[Quantization], MemoryPlan]) -> Quantization:
        """The number format for files that may be rounded while they are read."""
        if self._settings.quant != "auto":
            return self._settings.quant
        if files.rounded_at_load:
            return self._rounding_of(files)
        plan = planned("none")
        fits = plan.resident_blocks == plan.n_blocks
        return "none" if fits or self._device.type != "cuda" else self._eight_bit()

    def _eight_bit(self) -> EightBit:
        """The 8-bit format that this card multiplies faster; int8, the more exact one, where none was measured."""
        return self._faster() or "int8"

    def _rounds_fp8_anew(self) -> bool:
        """Whether fp8 weights become int8 while they are read: this card multiplies int8 faster, or has no fp8 at all.

        The error of fp8 products is 0.042 on a golden case of the reference. Rounded anew to int8 it is 0.038; of the
        fp8 weights multiplied as floats, which is two to four times slower, 0.035
        (tests/engines/infinitetalk/test_quant.py).
        """
        if self._settings.quant != "auto":
            return self._settings.quant == "int8"
        return self._device.type == "cuda" and self._eight_bit() == "int8"

    def _fitting_the_host(self, forms: list[tuple[MemoryPlan, Quantization]]) -> tuple[MemoryPlan, Quantization]:
        """The first of `forms` that host memory has room for, with plain memory where pinned memory is too much."""
        host = self._host()
        if host is None or not self._settings.check_host_memory:
            return forms[0]
        n_processes = dist.get_world_size() if several_processes() else 1
        room = host.available_bytes // n_processes
        for plan, quantization in forms:
            for form in (plan, replace(plan, pinned=False)):
                if form.host_bytes <= room:
                    if form.pinned != plan.pinned:
                        log.warning(
                            "host memory is short: blocks wait in plain memory instead of pinned memory, which makes "
                            "every forward slower"
                        )
                    return form, quantization
        least = replace(forms[-1][0], pinned=False)
        raise HostOutOfMemory(_refusal(least, host, n_processes))

    def _rounding_of(self, files: TransformerFiles) -> Quantization:
        """fp8 where this card multiplies fp8 faster and the files hold fp8; else int8, which is more exact."""
        if self._device.type != "cuda":
            return "none"
        return "fp8" if files.quantization == "fp8" and self._eight_bit() == "fp8" else "int8"

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

    def lift_limit(self) -> None:
        """Forget `lower_limit`: host memory has no room for the blocks that it moves there."""
        self._most_blocks = None

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


def _refusal(plan: MemoryPlan, host: HostMemory, n_processes: int) -> str:
    """The sentence for a person: need and room in numbers, and what to change. plan: the smallest form."""
    gib = memory.GIB
    if plan.free_bytes is None:
        parts = "for all weights on the CPU"
        remedies = "use a machine with an NVIDIA GPU"
    else:
        waiting, fixed = plan.waiting_bytes / gib, plan.host_fixed_bytes / gib
        n_waiting = plan.n_blocks - plan.resident_blocks
        parts = (
            f"{waiting:.1f} for {n_waiting} of {plan.n_blocks} blocks that the GPU has no room for, {fixed:.1f} for "
            "everything else"
        )
        remedies = "use the weights profile infinitetalk-int8-fast, resolution 480p, or a GPU with more memory"
    each = f" for each of {n_processes} processes" if n_processes > 1 else ""
    return (
        f"InfiniteTalk needs {plan.host_bytes / gib:.1f} GiB of host memory{each} ({parts}), and {host.place} has "
        f"{host.available_bytes / gib:.1f} GiB free of {host.total_bytes / gib:.1f}. Give it more memory, or "
        f"{remedies}. LIPSYNC_CHECK_HOST_MEMORY=false tries it all the same."
    )


def _refuse_what_the_gpu_cannot_hold(plan: MemoryPlan) -> None:
    """Raise EngineUnavailable where no block stays on the GPU and the rest is still too much."""
    if plan.free_bytes is None or plan.resident_blocks > 0 or plan.least_device_bytes <= plan.free_bytes:
        return
    gib = memory.GIB
    raise EngineUnavailable(
        f"InfiniteTalk needs {plan.least_device_bytes / gib:.1f} GiB of the GPU's memory for a video of this size with "
        f"every block in host memory, and {plan.free_bytes / gib:.1f} GiB are free. Use resolution 480p, or a GPU with "
        "more memory."
    )


def spare_bytes(plan: MemoryPlan) -> int:
    """GPU memory in bytes that `plan` has no use for; 0 on the CPU, and where CLIP is moved out to make room."""
    if plan.free_bytes is None or not plan.keep_encoders:
        return 0
    return plan.free_bytes - plan.weights_bytes - plan.working_bytes


def has_room_to_encode(spare: int, need: Need) -> bool:
    """Whether `spare` bytes of GPU memory are enough to encode a picture while the GPU computes something else."""
    return spare >= need.pixels * _ENCODE_BYTES


def _bytes_on_gpu(model: InfiniteTalkTransformer) -> int:
    """GPU memory that releasing the model would free; streamed blocks share two buffers."""
    storages = (t.untyped_storage() for t in model.parameters() if t.device.type == "cuda")
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
