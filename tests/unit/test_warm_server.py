"""The memory that a benchmark reports for its server counts only the graphics cards that the server may use."""

import sys
from types import SimpleNamespace

import pytest
from lipsync_server.bench import warm_server
from lipsync_server.engines import hardware


def test_only_the_visible_card_s_memory_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    used = {"GPU-a": 70_000, "GPU-b": 5_000}
    cards = list(used)
    driver = SimpleNamespace(
        NVMLError=RuntimeError,
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: len(cards),
        nvmlDeviceGetHandleByIndex=lambda index: cards[index],
        nvmlDeviceGetHandleByUUID=lambda uuid: uuid,
        nvmlDeviceGetUUID=lambda card: card,
        nvmlDeviceGetName=lambda card: "a card",
        nvmlDeviceGetCudaComputeCapability=lambda card: (9, 0),
        nvmlDeviceGetMemoryInfo=lambda card: SimpleNamespace(total=80_000, free=80_000 - used[card], used=used[card]),
    )
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    hardware.gpus.cache_clear()
    warm_server._gpus.cache_clear()
    try:
        assert warm_server._gpu_bytes() == 5_000
        used["GPU-b"] = 6_000
        assert warm_server._gpu_bytes() == 6_000
    finally:
        hardware.gpus.cache_clear()
        warm_server._gpus.cache_clear()
