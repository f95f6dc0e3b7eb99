"""Host memory beside GPU memory: a smaller form, or a refusal in numbers before any weights are read."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lipsync_server.engines import host_memory
from lipsync_server.engines.host_memory import HostMemory
from lipsync_server.engines.infinitetalk.engine import create
from lipsync_server.engines.infinitetalk.files.transformers import TransformerFiles
from lipsync_server.engines.infinitetalk.loading.memory import MemoryPlan
from lipsync_server.engines.infinitetalk.loading.planner import MemoryPlanner, Need
from lipsync_server.engines.infinitetalk.model.blocks import Block
from lipsync_server.engines.infinitetalk.model.config import TransformerConfig
from lipsync_server.engines.infinitetalk.model.offload import StreamedBlocks
from lipsync_server.errors import HostOutOfMemory
from lipsync_server.models.host_buffers import HostBuffers
from lipsync_server.quantization import EightBit, Quantization
from lipsync_server.settings import Settings

GIB = 2**30
HD = Need("single", True, 960 * 960, 1)


class CardOf(MemoryPlanner):
    """A planner for a card with so much free memory; this machine has none."""

    def __init__(
        self, free_gib: float, host: HostMemory | None, *, faster: EightBit | None = "int8", **settings: Any
    ) -> None:
        made = Settings(_env_file=None, **settings)
        super().__init__(made, torch.device("cuda"), compiles=True, host=lambda: host, faster=lambda: faster)
        self._free = int(free_gib * GIB)

    def free_bytes(self) -> int:
        return self._free


def _host(gib: float, total_gib: float = 64) -> HostMemory:
    return HostMemory(int(total_gib * GIB), int(gib * GIB), is_container_limit=True)


@pytest.fixture(scope="module")
def files_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Quantization], TransformerFiles]:
    """The published sizes, as a folder with a configuration and no weights."""
    folder = tmp_path_factory.mktemp("base")
    config = folder / "config.json"
    config.write_text("{}")

    def made(quantization: Quantization) -> TransformerFiles:
        return TransformerFiles(quantization, "single", distilled=True, source=folder, adapter=None, config=config)

    return made


def _plan(planner: MemoryPlanner, files: TransformerFiles) -> tuple[MemoryPlan, Quantization]:
    return planner.plan(files, HD)


def test_blocks_are_kept_in_pinned_memory_then_in_plain_memory_then_refused(
    files_of: Callable[[Quantization], TransformerFiles], caplog: pytest.LogCaptureFixture
) -> None:
    """720p on 24 GB: 18 of 40 blocks are in host memory. torch rounds the size of each pinned block up to 512 MiB."""
    rich, _ = _plan(CardOf(23, _host(64)), files_of("int8"))
    waiting = rich.n_blocks - rich.resident_blocks
    assert rich.pinned
    assert rich.waiting_bytes == waiting * GIB // 2
    assert not caplog.records

    plain, _ = _plan(CardOf(23, _host((rich.host_bytes - 1) / GIB)), files_of("int8"))
    assert not plain.pinned
    assert plain.resident_blocks == rich.resident_blocks
    assert plain.host_bytes < rich.host_bytes
    assert "plain memory" in caplog.text
    assert "plain host memory" in plain.line

    with pytest.raises(HostOutOfMemory) as refused:
        _plan(CardOf(23, _host((plain.host_bytes - 1) / GIB, total_gib=16)), files_of("int8"))
    for part in (
        f"{plain.host_bytes / GIB:.1f} GiB of host memory", f"for {waiting} of 40 blocks", "this container has",
        "free of 16.0", "480p", "LIPSYNC_CHECK_HOST_MEMORY=false",
    ):  # fmt: skip
        assert part in refused.value.detail


def test_16_bit_files_are_rounded_to_8_bits_where_the_host_has_no_room_for_them(
    files_of: Callable[[Quantization], TransformerFiles],
) -> None:
    """The card has room for nearly all blocks in 16 bits; a few do not fit."""
    free = 79
    assert _plan(CardOf(free, _host(4)), files_of("none"))[1] == "none"
    assert _plan(CardOf(free, _host(64), offload="blocks", quant="none"), files_of("none"))[1] == "none"
    with pytest.raises(HostOutOfMemory):
        _plan(CardOf(free, _host(30), offload="blocks", quant="none"), files_of("none"))
    assert _plan(CardOf(free, _host(30), offload="blocks", faster="fp8"), files_of("none"))[1] == "fp8"


def test_the_check_can_be_switched_off(files_of: Callable[[Quantization], TransformerFiles]) -> None:
    plan, _ = _plan(CardOf(23, _host(1), check_host_memory=False), files_of("int8"))
    assert plan.pinned


def _machine_with(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, available_bytes: int) -> None:
    """Files as the kernel shows them in a container with this memory limit."""
    cgroup = tmp_path / "cgroup"
    cgroup.mkdir()
    (cgroup / "memory.max").write_text(str(available_bytes))
    (cgroup / "memory.current").write_text("0")
    monkeypatch.setattr(host_memory, "CGROUP", cgroup)


def test_a_model_too_large_for_the_host_is_refused_before_a_file_is_read(
    tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a container of 64 KiB. The encoders' files are damaged, which shows that nothing was read."""
    weights = tmp_path / "weights"
    weights.mkdir()
    for path in tiny_weights.rglob("*"):
        copy = weights / path.relative_to(tiny_weights)
        if path.is_dir():
            copy.mkdir(exist_ok=True)
        else:
            copy.write_bytes(b"damaged" if "VAE" in path.name else path.read_bytes())
    _machine_with(monkeypatch, tmp_path, 2**16)
    settings = Settings(_env_file=None, weights_dir=weights, data_dir=tmp_path, device="cpu", preset="fast")
    with pytest.raises(HostOutOfMemory, match=r"for all weights on the CPU.*this container has 0\.0 GiB free"):
        create(settings).load()


def test_memory_that_cannot_be_pinned_is_logged_once_and_used_unpinned(caplog: pytest.LogCaptureFixture) -> None:
    """Without CUDA torch refuses to pin memory, so this refusal is a real one."""
    if torch.cuda.is_available():
        pytest.skip("this machine can pin memory")
    with caplog.at_level(logging.WARNING):
        buffers = HostBuffers(pin=True)
        assert [buffers.empty(1000).numel() for _ in range(3)] == [1000] * 3
    assert [record.message.startswith("host memory could not be pinned") for record in caplog.records] == [True]
    assert "ulimit -l" in caplog.text


def test_a_failed_allocation_of_plain_memory_ends_in_a_sentence() -> None:
    with pytest.raises(HostOutOfMemory, match="host memory left"):
        HostBuffers(pin=False).empty(2**60)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="copies to a GPU")
def test_blocks_are_the_same_from_plain_and_pinned_memory() -> None:
    device = torch.device("cuda", 0)
    sums = []
    for pinned in (True, False):
        torch.manual_seed(0)
        with torch.device("meta"):
            blocks = torch.nn.ModuleList(
                [Block(TransformerConfig(dim=128, ffn_dim=256, num_heads=1)) for _ in range(3)]
            )
        runner = StreamedBlocks(blocks, [0, 1, 2], device, torch.bfloat16, pinned=pinned)
        for parameter in blocks.parameters():
            parameter.data.copy_(torch.randn(parameter.shape))
        runner.bind()
        sums.append([[float(p.float().sum()) for p in block.parameters()] for _ in range(2) for block in runner])
        runner.close()
    assert sums[0] == sums[1]


@pytest.mark.parametrize(
    ("faster", "quant", "held"),
    [
        ("int8", "auto", "int8"), ("fp8", "auto", "none"), (None, "auto", "int8"),
        ("int8", "fp8", "none"), ("fp8", "int8", "int8"),
    ],
)  # fmt: skip
def test_fp8_files_become_int8_where_int8_is_the_faster_product(
    files_of: Callable[[Quantization], TransformerFiles], faster: EightBit | None, quant: str, held: Quantization
) -> None:
    """ "none" keeps the numbers of the file. Where a card multiplies neither format, int8 is used."""
    planner = CardOf(23, _host(64), faster=faster, quant=quant)
    assert _plan(planner, files_of("fp8"))[1] == held
    assert _plan(planner, files_of("int8"))[1] == "none"
