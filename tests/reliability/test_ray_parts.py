"""The parts of the Ray executor that need no cluster: files in pieces, resume points, machines and engines."""

import hashlib
import logging
import threading
from pathlib import Path

import pytest
from lipsync_server.engines.base import EngineInfo
from lipsync_server.engines.registry import EngineEntry, Registry
from lipsync_server.errors import LipsyncError, WorkerCrashed
from lipsync_server.settings import Settings
from lipsync_server.workers import messages
from lipsync_server.workers.ray.actor import EngineActor
from lipsync_server.workers.ray.cluster import (
    ClusterRegistry,
    Machine,
    machines,
    why_exposed,
    why_other_address,
)
from lipsync_server.workers.ray.files import PIECE_BYTES, Kept, Piece, Receiver, ResumeFiles, keep_only, pieces
from lipsync_server.workers.ray.versions import Versions, difference
from material import make_task
from stand_in import REGISTRY


@pytest.mark.parametrize("size", [0, 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES])
def test_a_file_arrives_whole_and_appears_only_then(tmp_path: Path, size: int) -> None:
    sent, folder = tmp_path / "sent", tmp_path / "there"
    sent.write_bytes(bytes(size))
    receiver = Receiver(folder)
    for piece in pieces(sent, "segments/video.mp4"):
        assert not (folder / "segments" / "video.mp4").exists()
        receiver.take(piece)
    assert (folder / "segments" / "video.mp4").read_bytes() == bytes(size)
    assert [path.name for path in (folder / "segments").iterdir()] == ["video.mp4"]


def test_a_video_that_is_not_what_was_rendered_never_appears(tmp_path: Path) -> None:
    receiver = Receiver(tmp_path)
    receiver.take(Piece("video.mp4", b"some of it", last=True), complete=False)
    with pytest.raises(WorkerCrashed, match="damaged"):
        receiver.complete(hashlib.sha256(b"all of it").hexdigest())
    receiver.drop()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["../token", "/etc/passwd", "segments/../../token", ".env", ""])
def test_a_machine_cannot_write_outside_of_the_jobs_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(LipsyncError, match="outside"):
        Receiver(tmp_path / "job").take(Piece(name, b"", last=True))


def test_the_server_has_every_file_that_a_machine_resumes_from(tmp_path: Path) -> None:
    machine, server = tmp_path / "machine", tmp_path / "server"
    (machine / "segments").mkdir(parents=True)
    resume, receiver = ResumeFiles(machine), Receiver(server)

    def travel() -> list[str]:
        names = []
        for news in resume.news():
            if isinstance(news, Kept):
                keep_only(server, news.names)
            else:
                receiver.take(news)
                names.append(news.name)
        return names

    (machine / "segments" / "00000000-00000010.mp4").write_bytes(b"frames")
    (machine / "segments" / "segment.part").write_bytes(b"torn")
    (machine / "render.txt").write_text("which render")
    assert travel() == [], "frames without a resume point are of no use"
    (machine / "checkpoint-000000010.npz").write_bytes(b"state")
    # The resume point is sent last, after the frames that it counts.
    assert travel() == ["segments/00000000-00000010.mp4", "render.txt", "checkpoint-000000010.npz"]
    assert travel() == []
    (machine / "checkpoint-000000010.npz").rename(machine / "checkpoint-000000020.npz")
    assert travel() == ["checkpoint-000000020.npz"]
    assert sorted(path.name for path in server.glob("*.npz")) == ["checkpoint-000000020.npz"]


def test_a_machine_gets_a_worker_for_each_gpu_or_for_some_cores() -> None:
    def node(**resources: float) -> dict[str, object]:
        return {
            "NodeID": "1", "Alive": True, "NodeManagerAddress": "10.0.0.1", "NodeManagerPort": 1,
            "NodeName": "10.0.0.1",
            "NodeManagerHostname": "studio", "Resources": resources,
        }  # fmt: skip

    def workers(settings: Settings, **resources: float) -> tuple[int, int, int]:
        [machine] = machines([node(**resources)], settings)
        assert machine.name == "studio"
        return machine.n_workers, machine.n_gpus, machine.n_cpus

    plain = Settings(_env_file=None)
    assert workers(plain, CPU=32, GPU=4) == (4, 1, 0)
    assert workers(plain.model_copy(update={"gpus_per_worker": 2}), CPU=32, GPU=4) == (2, 2, 0)
    assert workers(plain.model_copy(update={"gpus_per_worker": 8}), CPU=32, GPU=4) == (1, 4, 0)
    assert workers(plain, CPU=9) == (2, 0, 4)
    assert workers(plain, CPU=1) == (1, 0, 1)
    assert workers(plain)[0] == 0
    assert machines([{**node(CPU=4), "Alive": False}], plain) == []


def test_an_engine_of_any_machine_is_offered_and_stays_offered() -> None:
    registry = ClusterRegistry({"bars": EngineEntry("stand_in"), "none": EngineEntry("no_such_package")})
    settings = Settings(_env_file=None)

    def available() -> dict[str, bool]:
        return {info.name: info.available for info in registry.describe(settings)}

    assert available() == {"bars": True, "none": False}
    lacking = EngineInfo(name="bars", title="Bars", available=False, reason="no GPU")
    registry.store_offer([lacking])
    assert available()["bars"] is False, "this machine does not render; the cluster's do"
    registry.store_offer([EngineInfo(name="bars", title="Bars", available=True, reason="")])
    registry.store_offer([lacking])
    assert available()["bars"] is True
    assert isinstance(registry, Registry)


@pytest.fixture
def actor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EngineActor:
    """An actor as Ray would make it, but in this process; its weights folder is `tmp_path`."""
    # An actor redirects its process's log. This process is pytest's own.
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", root.level)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return EngineActor(Settings(_env_file=None, weights_dir=tmp_path), REGISTRY)


def ends(actor: EngineActor, within_s: float) -> bool:
    lifeline = threading.Thread(target=actor.lifeline, daemon=True)
    lifeline.start()
    lifeline.join(within_s)
    return not lifeline.is_alive()


def test_an_actor_that_lost_its_gpu_reports_it_and_ends(actor: EngineActor, tmp_path: Path) -> None:
    (tmp_path / "load").write_text("lose the GPU")
    *_, last = actor.load("bars")
    assert isinstance(last, messages.LogLine | messages.LoadFailed)
    assert ends(actor, 10)


def test_an_actor_lives_on_after_any_other_failure_and_its_log_comes_along(actor: EngineActor, tmp_path: Path) -> None:
    (tmp_path / "load").write_text("fail")
    said = list(actor.load("bars"))
    assert [line.trace for line in said if isinstance(line, messages.LogLine) and "cheese" in (line.trace or "")]
    assert any(isinstance(message, messages.LoadFailed) for message in said)
    (tmp_path / "load").unlink()
    assert isinstance(list(actor.load("bars"))[-1], messages.Loaded)
    assert not ends(actor, 0.1)


def test_an_actor_sends_the_video_before_it_reports_the_end(actor: EngineActor, tmp_path: Path) -> None:
    task = make_task(tmp_path, duration_s=0.2)
    for name, path in (("image", task.image), ("audio", task.audio)):
        for piece in pieces(path, name):
            actor.receive(1, piece)
    said = list(actor.render(1, task))
    assert isinstance(said[-1], messages.Finished)
    assert isinstance(said[-2], Piece)
    assert said[-2].last
    video = b"".join(piece.data for piece in said if isinstance(piece, Piece) and piece.name == "video.mp4")
    assert hashlib.sha256(video).hexdigest() == said[-1].outcome.sha256
    assert not list((tmp_path / "lipsync-ray").glob("*/1")), "its folder of this render is gone"


def test_a_machine_with_other_versions_is_recognised() -> None:
    here = Versions("0.1.0", "3.11", "2.60.0")
    assert difference(here, here, "b") == ""
    assert "Machine b has lipsync-server 0.0.1 instead of 0.1.0; it gets no work" in difference(
        Versions("0.0.1", "3.11", "2.60.0"), here, "b"
    )
    assert "Python 3.12 instead of 3.11, Ray 2.52.0 instead of 2.60.0" in difference(
        Versions("0.1.0", "3.12", "2.52.0"), here, "b"
    )
    assert "older lipsync-server" in difference(None, here, "b")


def test_an_actor_sends_its_versions_and_checks_its_disk_space(actor: EngineActor) -> None:
    assert actor.offer().versions == Versions.here()
    assert actor.why_no_room(1000) is None
    assert "MiB are free" in str(actor.why_no_room(1 << 60))


def test_a_machine_in_a_public_network_is_warned_of() -> None:
    def machine(address: str) -> Machine:
        return Machine("1", "b", address, 1, n_workers=1, n_cpus=1, n_gpus=0)

    for public in ("8.8.8.8", "203.0.113.1", "2001:db8::1"):
        assert "--node-ip-address" in why_exposed(machine(public))
    for private in ("10.0.0.2", "127.0.0.1", "192.168.1.7", "100.100.1.1", "fd00::1", "a-name"):
        assert why_exposed(machine(private)) == ""


def test_a_head_with_another_address_than_the_servers_is_warned_of() -> None:
    node = {"Alive": True, "NodeManagerAddress": "203.0.113.1"}
    assert "--node-ip-address=10.77.0.1" in why_other_address("10.77.0.1:6379", [node])
    assert why_other_address("10.77.0.1:6379", [{**node, "NodeManagerAddress": "10.77.0.1"}]) == ""
    assert why_other_address("auto", [node]) == ""
