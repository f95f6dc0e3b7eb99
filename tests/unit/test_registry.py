"""The choice of an engine with its reason, and the description of this machine's hardware."""

import subprocess
import sys
from pathlib import Path

import pytest
from lipsync_server.engines import hardware
from lipsync_server.engines.ask import Ask
from lipsync_server.engines.base import EngineOptions
from lipsync_server.engines.devices import choose_device
from lipsync_server.engines.options import choose_options
from lipsync_server.engines.registry import ENGINES, EngineEntry, Registry
from lipsync_server.errors import EngineUnavailable, InvalidInput
from lipsync_server.settings import RenderSettings, Settings
from lipsync_server.workers.environment import child_environment
from lipsync_server.workers.shelf import EngineShelf
from pydantic import BaseModel, ConfigDict, ValidationError
from stand_in import REGISTRY

MIB = 1024 * 1024


def package(folder: Path, name: str, info: str) -> EngineEntry:
    """An engine package on disk whose describe() has the body `info`."""
    home = folder / name
    home.mkdir()
    (home / "__init__.py").touch()
    (home / "options.py").write_text("from lipsync_server.engines.base import EngineOptions as Options\n")
    (home / "info.py").write_text(
        f"from lipsync_server.engines.base import EngineInfo\ndef describe(settings):\n    {info}\n"
    )
    return EngineEntry(name)


def settings(engine: str = "auto") -> Settings:
    return Settings(engine=engine, _env_file=None)


def test_auto_chooses_the_first_engine_that_can_run_with_the_reason_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    missing = 'return EngineInfo("best", "Best", False, "The weights are missing: a.bin, b.bin. Get them: x y.")'
    registry = Registry(
        {
            "best": package(tmp_path, "engine_best", missing),
            "gone": EngineEntry("engine_that_nobody_wrote"),
            "good": package(tmp_path, "engine_good", 'return EngineInfo("good", "Good", True, "", device="cuda:0")'),
            "spare": package(tmp_path, "engine_spare", 'return EngineInfo("spare", "Spare", True, "")'),
        }
    )
    name, why = registry.choose(settings())
    assert name == "good"
    assert why == (
        "good on cuda:0: the best that can run here "
        "(best: The weights are missing; gone: Engine gone is not part of this installation any more)"
    )
    assert [info.available for info in registry.describe(settings())] == [False, False, True, True]


def test_an_engine_whose_dependency_is_missing_names_the_package_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    registry = Registry({"needy": package(tmp_path, "engine_needy", "import package_that_is_not_there")})
    (tmp_path / "engine_needy" / "info.py").write_text("import package_that_is_not_there\n")
    [info] = registry.describe(settings())
    assert not info.available
    assert "package_that_is_not_there" in info.reason
    assert "pip install -c constraints.txt -e '.[models]'" in info.reason


def test_no_engine_at_all_is_an_error_with_every_reason() -> None:
    registry = Registry({"a": EngineEntry("nobody_wrote_a"), "b": EngineEntry("nobody_wrote_b")})
    with pytest.raises(EngineUnavailable, match=r"No engine can run here\. a: .* b: .*"):
        registry.choose(settings())


def test_a_named_engine_that_cannot_run_is_refused_with_the_remedy(tmp_path: Path) -> None:
    here = Settings(engine="infinitetalk", weights_dir=tmp_path, _env_file=None)
    with pytest.raises(EngineUnavailable, match="Engine infinitetalk cannot run here: ") as raised:
        ENGINES.choose(here)
    assert raised.value.field == "engine"
    with pytest.raises(EngineUnavailable, match="There is no engine 'magic'; there are: auto, infinitetalk, flashhead"):
        ENGINES.require("magic", here)


def test_describing_and_choosing_load_no_torch(tmp_path: Path) -> None:
    check = (
        "import sys\nfrom pathlib import Path\nfrom lipsync_server.engines import registry\n"
        "from lipsync_server.settings import Settings\n"
        "s = Settings(weights_dir=Path(sys.argv[1]))\n"
        "registry.describe(s); registry.choose(s); [registry.options_model(e) for e in registry.ENGINES.entries]\n"
        "import lipsync_server.workers.process.executor\n"
        "print(sorted({'torch', 'diffusers', 'transformers', 'cv2', 'av'} & set(sys.modules)))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", check, str(tmp_path)], capture_output=True, text=True, check=False, timeout=60
    )
    assert answer.stdout.strip() == "[]", answer.stderr


class _Options(EngineOptions):
    steps: int = 8
    preset: str = "balanced"


def test_fields_override_settings_and_the_engines_own_options_override_both() -> None:
    here = Settings(steps=4, preset="fast", _env_file=None)
    ask = Ask(seed=7, preset="quality", options={"steps": 2})
    chosen = choose_options("two", _Options, ask, here)
    assert chosen.options == _Options(steps=2, preset="quality", seed=7)
    assert chosen.ignored == ()
    assert choose_options("two", _Options, Ask(), here).options == _Options(steps=4, preset="fast")


def test_an_unknown_option_is_refused_with_the_options_that_exist() -> None:
    with pytest.raises(InvalidInput, match="Engine bald has no option 'beard'; it has: seed, face_index, face_box"):
        choose_options("bald", EngineOptions, Ask(options={"beard": 1}), settings())
    with pytest.raises(InvalidInput, match="Did you mean 'steps'"):
        choose_options("two", _Options, Ask(options={"stepps": 1}), settings())


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str
    scale: float = 1.0


class _WithEntries(EngineOptions):
    entries: tuple[_Entry, ...] | None = None


def test_an_unknown_field_inside_an_option_is_refused_with_the_fields_that_it_has() -> None:
    ask = Ask(options={"entries": [{"name": "a"}, {"name": "b", "scal": 2}]})
    with pytest.raises(InvalidInput) as error:
        choose_options("two", _WithEntries, ask, settings())
    assert error.value.detail == (
        "Option entries.1 of engine two has no field 'scal'; it has: name, scale. Did you mean 'scale'?"
    )
    assert error.value.field == "entries.1.scal"


@pytest.mark.parametrize("box", [(9, 9, 1, 20), (0, 9, 20, 9)])
def test_a_box_without_an_area_is_refused_before_a_face_is_searched(
    box: tuple[float, float, float, float],
) -> None:
    with pytest.raises(InvalidInput, match="right must be more than left, and bottom more than top"):
        choose_options("bald", EngineOptions, Ask(face_box=box), settings())


def test_an_option_that_an_engine_ignores_comes_back_as_a_warning() -> None:
    ask = Ask(prompt="A man at sea", preset="fast", resolution="720p", seed=3)
    chosen = choose_options("bald", EngineOptions, ask, settings())
    assert chosen.options == EngineOptions(seed=3)
    assert chosen.ignored == (
        "Engine bald does not read a prompt; the prompt was ignored.",
        "Engine bald has no option preset; preset fast was ignored.",
        "Engine bald has no option resolution; resolution 720p was ignored.",
    )


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_no_ask_holds_a_number_that_is_not_finite(number: float) -> None:
    for values in (
        {"face_box": (number, 0, 1, 1)},
        {"options": {"head_motion": number}},
        {"options": {"people": [[0, 0, 1, number], [0, 0, 1, 1]]}},
    ):
        with pytest.raises(ValidationError, match="finite"):
            Ask.model_validate(values)
    with pytest.raises(ValidationError, match="finite"):
        EngineOptions(face_box=(0, 0, 1, number))


def gpu(index: int, name: str, gib: float, capability: tuple[int, int]) -> hardware.Gpu:
    return hardware.Gpu(index, f"GPU-{index}", name, int(gib * 2**30), int(gib * 2**30), capability)


@pytest.mark.parametrize(
    ("wanted", "least_gib", "name"),
    [
        ("auto", 6, "cuda:2"),
        ("auto", 30, "cpu"),
        ("cuda", 6, "cuda:2"),
        ("cuda:0", 6, "cuda:0"),
        ("cuda:7", 6, "cuda:7"),
        ("cpu", 6, "cpu"),
    ],
)
def test_every_engine_uses_the_best_card_that_is_large_enough(
    monkeypatch: pytest.MonkeyPatch, wanted: str, least_gib: int, name: str
) -> None:
    cards = (gpu(0, "small", 4, (8, 9)), gpu(1, "3090", 24, (8, 6)), gpu(2, "4090", 23.98, (8, 9)))
    monkeypatch.setattr(hardware, "gpus", lambda: cards)
    device = choose_device(wanted, least_bytes=least_gib * 2**30)
    assert device.name == name
    assert (device.too_small is cards[2]) == (least_gib == 30)


def test_both_model_engines_pass_over_a_card_that_is_too_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "gpus", lambda: (gpu(0, "small", 4, (8, 9)), gpu(1, "4090", 24, (8, 9))))
    infos = {info.name: info for info in ENGINES.describe(settings())}
    assert (infos["sadtalker"].device, infos["infinitetalk"].device) == ("cuda:1", "cuda:1")


def test_a_worker_is_given_settings_without_a_secret() -> None:
    here = Settings(tokens="alice:secret", webhook_secret="secret", tunnel="secret", store="s3://secret/x")
    assert "secret" not in repr(here.for_workers()).replace("SecretStr", "")
    assert set(RenderSettings.model_fields) <= set(Settings.model_fields)


def test_a_worker_holds_one_big_engine_and_keeps_a_light_one_beside_it() -> None:
    entries = {"big": EngineEntry("stand_in"), "other": EngineEntry("stand_in"), "small": EngineEntry("stand_in", True)}
    shelf = EngineShelf(Registry(entries), settings())
    small, big = shelf.take("small"), shelf.take("big")
    small.load()
    big.load()
    assert shelf.take("small") is small
    assert shelf.take("big") is big
    assert shelf.holds() == "big"
    shelf.take("other").load()
    assert shelf.holds() == "other"
    assert shelf.take("small") is small
    assert shelf.take("big") is not big
    shelf.drop_unloaded()
    assert shelf.holds() == "small"


def test_nvidia_smi_is_read_when_nvml_is_missing() -> None:
    listing = (
        "0, GPU-aa11, NVIDIA H100 80GB HBM3, 81559, 81000, 9.0\n"
        "1, GPU-bb22, NVIDIA GeForce RTX 4090, 24564, 1024, 8.9\n"
        "2, GPU-cc33, [Unknown Error], [N/A], [N/A], [N/A]\n"
    )
    first, second = hardware._parse_nvidia_smi(listing)
    assert first == hardware.Gpu(0, "GPU-aa11", "NVIDIA H100 80GB HBM3", 81559 * MIB, 81000 * MIB, (9, 0))
    assert (second.index, second.free_bytes, second.compute_capability) == (1, 1024 * MIB, (8, 9))


@pytest.mark.parametrize(
    ("visible", "names"),
    [(None, "abc"), ("", ""), ("-1", ""), ("1", "b"), ("2,0", "ca"), ("GPU-b", "b"), ("0,7,1", "a"), ("GPU-", "")],
)
def test_the_gpus_are_those_that_cuda_visible_devices_admits(visible: str | None, names: str) -> None:
    found = [hardware.Gpu(index, f"GPU-{name}", name, 1, 1, (9, 0)) for index, name in enumerate("abc")]
    shown = hardware._visible(found, visible)
    assert "".join(gpu.name for gpu in shown) == names
    assert [gpu.index for gpu in shown] == list(range(len(shown)))


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "150000 100000"}, 1.5),
        ({"cpu.max": "max 100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}, 4.0),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({}, None),
    ],
)
def test_a_containers_cpu_quota_counts(tmp_path: Path, files: dict[str, str], cores: float | None) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert hardware._cgroup_quota(tmp_path) == cores


@pytest.mark.parametrize(
    ("n_gpus", "workers", "device", "shares"),
    [
        (2, 2, "auto", ["0", "1"]),
        (4, 2, "cuda", ["0,1", "2,3"]),
        (2, 3, "auto", ["0", "1", "0"]),
        (4, 1, "auto", [None]),
        (4, 2, "cuda:1", [None, None]),
        (0, 2, "auto", [None, None]),
    ],
)
def test_workers_share_the_gpus_fairly(
    monkeypatch: pytest.MonkeyPatch, n_gpus: int, workers: int, device: str, shares: list[str | None]
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    gpus = tuple(hardware.Gpu(index, f"GPU-{index}", "H100", 1, 1, (9, 0)) for index in range(n_gpus))
    monkeypatch.setattr(hardware, "gpus", lambda: gpus)
    here = Settings(workers=workers, device=device, _env_file=None)
    environments = [child_environment(here, index) for index in range(workers)]
    assert [environment.get("CUDA_VISIBLE_DEVICES") for environment in environments] == shares


def test_a_workers_math_threads_are_its_share_of_the_cores_unless_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(hardware, "usable_cpus", lambda: 8)
    here = Settings(workers=4, _env_file=None)
    assert child_environment(here, 0)["OMP_NUM_THREADS"] == "2"
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert child_environment(here, 0)["OMP_NUM_THREADS"] == "5"


def test_the_stand_in_is_only_in_the_tests_registry() -> None:
    assert "bars" in REGISTRY.entries
    assert list(ENGINES.entries) == ["infinitetalk", "flashhead", "sadtalker", "preview"]
