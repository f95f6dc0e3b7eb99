"""Weights by profile, against a stand-in model hub over real HTTP."""

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from lipsync_server.cli.app import app
from lipsync_server.errors import DiskFull, InvalidInput, WeightsError
from lipsync_server.weights import download
from lipsync_server.weights.download import PullProgress, pull
from lipsync_server.weights.manifest import Manifest, Profile, Source, WeightFile, load_manifest
from lipsync_server.weights.pin import pinned
from lipsync_server.weights.verify import check_file, profile_complete
from model_hub import Hub, digest, serve_hub
from typer.testing import CliRunner

# huggingface_hub writes in pieces of 10 MB. A download that is cut within the first piece begins anew.
BIG = os.urandom(24_000_000)
SMALL = b'{"a": 1}'


@pytest.fixture
async def hub(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Hub]:
    async with serve_hub({"big.safetensors": BIG, "config.json": SMALL}) as stand_in:
        monkeypatch.setenv("HF_ENDPOINT", stand_in.url)
        monkeypatch.setattr(download, "SPARE_BYTES", 0)
        yield stand_in


def manifest_for(size: int = len(BIG), sha256: str | None = digest(BIG)) -> Manifest:
    return Manifest(
        version=1,
        sources={"s": Source(repository="some/model", revision="main", folder="model", licence="x", what="x")},
        files={
            "big": WeightFile(source="s", path="big.safetensors", size_bytes=size, size_exact=True, sha256=sha256),
            "config": WeightFile(source="s", path="config.json", size_bytes=5, size_exact=False, sha256=None),
        },
        profiles={"p": Profile(engine="e", title="t", files=("big", "config"))},
    )


@pytest.fixture
def manifest() -> Iterator[Manifest]:
    yield manifest_for()


async def test_a_profile_is_downloaded_verified_and_not_downloaded_again(
    hub: Hub, manifest: Manifest, tmp_path: Path
) -> None:
    seen: list[PullProgress] = []
    paths = await asyncio.to_thread(pull, "p", tmp_path, manifest=manifest, on_progress=seen.append)
    assert [path.read_bytes() for path in paths] == [BIG, SMALL]
    assert seen[-1].bytes_done == seen[-1].bytes_total == len(BIG) + len(SMALL)
    assert profile_complete(manifest, "p", tmp_path)
    fetched = len(hub.ranges)
    await asyncio.to_thread(pull, "p", tmp_path, manifest=manifest)
    assert len(hub.ranges) == fetched


async def test_an_index_brings_the_shards_that_it_names(hub: Hub, tmp_path: Path) -> None:
    shards = {f"part-{n}.safetensors": os.urandom(1000 + n) for n in range(3)}
    index = json.dumps({"metadata": {}, "weight_map": {f"tensor{n}": name for n, name in enumerate(shards)}}).encode()
    hub.files |= {"model.index.json": index, **shards}
    entry = WeightFile(
        source="s", path="model.index.json", size_bytes=10, size_exact=False, sha256=None, named_bytes=3000
    )
    manifest = manifest_for().model_copy(
        update={"files": {"index": entry}, "profiles": {"p": Profile(engine="e", title="t", files=("index",))}}
    )
    assert manifest.size_bytes("p") == 3010
    assert not profile_complete(manifest, "p", tmp_path)
    paths = await asyncio.to_thread(pull, "p", tmp_path, manifest=manifest)
    assert {path.name for path in paths} == {"model.index.json", *shards}
    assert all((tmp_path / "model" / name).read_bytes() == data for name, data in shards.items())
    assert profile_complete(manifest, "p", tmp_path)
    paths[-1].unlink()
    assert not profile_complete(manifest, "p", tmp_path)


async def test_an_index_that_names_a_place_outside_is_refused(hub: Hub, tmp_path: Path) -> None:
    hub.files["model.index.json"] = json.dumps({"weight_map": {"t": "../../outside.safetensors"}}).encode()
    entry = WeightFile(source="s", path="model.index.json", size_bytes=9, size_exact=False, sha256=None, named_bytes=1)
    manifest = manifest_for().model_copy(
        update={"files": {"index": entry}, "profiles": {"p": Profile(engine="e", title="t", files=("index",))}}
    )
    with pytest.raises(WeightsError, match="cannot be read"):
        await asyncio.to_thread(pull, "p", tmp_path, manifest=manifest)


async def test_a_cut_download_resumes_where_it_stopped(hub: Hub, manifest: Manifest, tmp_path: Path) -> None:
    hub.cuts = [22_000_000]
    hub.files.pop("config.json")
    only_big = manifest.model_copy(update={"profiles": {"p": Profile(engine="e", title="t", files=("big",))}})
    (path,) = await asyncio.to_thread(pull, "p", tmp_path, manifest=only_big)
    assert path.read_bytes() == BIG
    assert hub.ranges[0] is None
    assert hub.ranges[1] is not None
    assert int(hub.ranges[1].removeprefix("bytes=").split("-")[0]) >= 10_000_000


async def test_a_wrong_checksum_is_refused_and_the_file_removed(hub: Hub, manifest: Manifest, tmp_path: Path) -> None:
    hub.files["big.safetensors"] = bytes(len(BIG))
    with pytest.raises(WeightsError, match=r"big\.safetensors.*SHA-256"):
        await asyncio.to_thread(pull, "p", tmp_path, manifest=manifest)
    assert not (tmp_path / "model" / "big.safetensors").exists()


async def test_a_file_without_a_published_checksum_is_checked_against_the_hubs_own(hub: Hub, tmp_path: Path) -> None:
    manifest = manifest_for(sha256=None)
    (path, _) = await asyncio.to_thread(pull, "p", tmp_path, manifest=manifest)
    assert check_file(manifest, manifest.files["big"], tmp_path).state == "ok"
    path.write_bytes(bytes(len(BIG)))
    assert check_file(manifest, manifest.files["big"], tmp_path).state == "damaged"


async def test_a_damaged_file_is_downloaded_again(hub: Hub, manifest: Manifest, tmp_path: Path) -> None:
    (path, _) = await asyncio.to_thread(pull, "p", tmp_path, manifest=manifest)
    path.write_bytes(BIG[:-1] + b"?")
    await asyncio.to_thread(pull, "p", tmp_path, manifest=manifest)
    assert path.read_bytes() == BIG


async def test_missing_disk_space_is_reported_before_anything_is_downloaded(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(DiskFull, match="are free in"):
        await asyncio.to_thread(pull, "p", tmp_path, manifest=manifest_for(size=10**18))
    assert hub.ranges == []


@pytest.mark.parametrize(("status", "words"), [(401, "HF_TOKEN"), (403, "HF_TOKEN"), (404, "not at some/model")])
async def test_a_refusal_of_the_hub_names_the_remedy(
    hub: Hub, manifest: Manifest, tmp_path: Path, status: int, words: str
) -> None:
    hub.status = status
    with pytest.raises(WeightsError, match=words):
        await asyncio.to_thread(pull, "p", tmp_path, manifest=manifest)


async def test_the_token_from_the_environment_is_used(
    hub: Hub, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.token = "hf_secret"
    with pytest.raises(WeightsError, match="HF_TOKEN"):
        await asyncio.to_thread(pull, "p", tmp_path, manifest=manifest)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert len(await asyncio.to_thread(pull, "p", tmp_path, manifest=manifest)) == 2


def test_every_profile_names_known_files_and_the_8_bit_ones_stay_under_40_gb() -> None:
    manifest = load_manifest()
    for name, profile in manifest.profiles.items():
        assert profile.files
        assert all(manifest.files[key].source in manifest.sources for key in profile.files)
        if "int8" in name or "fp8" in name:
            assert manifest.size_bytes(name) < 40e9
            assert not any("-of-00007" in file.path for file in manifest.profile_files(name))


def test_an_unknown_profile_is_refused_with_the_profiles_that_exist() -> None:
    with pytest.raises(InvalidInput, match="infinitetalk-int8"):
        load_manifest().profile("nope")


async def test_without_a_network_the_message_names_the_network(
    hub: Hub, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """No program listens at the port. The hub's library then reads its own cache and reports "not found"."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{nobody.getsockname()[1]}")
        with pytest.raises(WeightsError, match=r"cannot be reached.*Check the network"):
            await asyncio.to_thread(pull, "p", tmp_path, manifest=manifest)
    assert capfd.readouterr() == ("", "")


async def test_a_pinned_manifest_names_commits_sizes_and_checksums(hub: Hub, tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    path.write_text(manifest_for(sha256=None).model_dump_json(), encoding="utf-8")
    assert load_manifest(path).moving_sources() == ["s"]
    fixed = await asyncio.to_thread(pinned, load_manifest(path))
    assert fixed.moving_sources() == []
    assert fixed.sources["s"].revision == "c" * 40
    assert (fixed.files["big"].sha256, fixed.files["big"].size_bytes) == (digest(BIG), len(BIG))
    hub.files["big.safetensors"] = bytes(len(BIG))
    with pytest.raises(WeightsError, match="SHA-256"):
        await asyncio.to_thread(pull, "p", tmp_path / "weights", manifest=fixed)


async def test_a_pinned_profile_is_resumed_at_its_commit_and_checked_against_its_own_checksum(
    hub: Hub, manifest: Manifest, tmp_path: Path
) -> None:
    """The transfer breaks off. Then the hub has another file of the same size at that path, with its SHA-256."""
    source = manifest.sources["s"].model_copy(update={"revision": "c" * 40})
    fixed = manifest.model_copy(update={"sources": {"s": source}})
    assert fixed.moving_notice() is None
    hub.cuts = [22_000_000]
    paths = await asyncio.to_thread(pull, "p", tmp_path, manifest=fixed)
    assert paths[0].read_bytes() == BIG
    assert hub.revisions == {"c" * 40}
    assert check_file(fixed, fixed.files["big"], tmp_path).detail.startswith("SHA-256 as published")

    hub.files["big.safetensors"] = bytes(len(BIG))
    hub.cuts = [22_000_000]
    with pytest.raises(WeightsError, match=f"published is {digest(BIG)}; the file was removed"):
        await asyncio.to_thread(pull, "p", tmp_path / "again", manifest=fixed)


def _partial_files(folder: Path) -> list[Path]:
    return list(folder.rglob("*.incomplete"))


async def _half_a_pull(hub: Hub, manifest: Manifest, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network is lost permanently after 22 of 24 MB of the large file, which is fetched alone."""
    alone = {"p": Profile(engine="e", title="t", files=("big",))}
    hub.cuts = [22_000_000, *[0] * 100]
    with monkeypatch.context() as patch:
        patch.setattr(download, "TRIES", 1)
        with pytest.raises(WeightsError, match="could not be fetched"):
            await asyncio.to_thread(pull, "p", folder, manifest=manifest.model_copy(update={"profiles": alone}))
    hub.cuts = []
    hub.ranges.clear()


async def test_a_later_pull_resumes_where_the_last_one_stopped(
    hub: Hub, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The download is resumed as by a new process: disk space is needed for the missing bytes alone."""
    await _half_a_pull(hub, manifest, tmp_path, monkeypatch)
    (path, _) = await asyncio.to_thread(pull, "p", tmp_path, manifest=manifest)
    assert path.read_bytes() == BIG
    assert [asked for asked in hub.ranges if asked] == ["bytes=20971520-"]
    assert not _partial_files(tmp_path)


async def test_a_file_that_changes_under_a_branch_is_whole_and_reported_as_unpinned(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The owner replaces the file between the two halves of a download: no mixture of both arrives."""
    moving = manifest_for(sha256=None)
    await _half_a_pull(hub, moving, tmp_path, monkeypatch)
    replaced = bytes(len(BIG))
    hub.files["big.safetensors"] = replaced
    (path, _) = await asyncio.to_thread(pull, "p", tmp_path, manifest=moving)
    assert path.read_bytes() == replaced
    assert "for want of a pinned one" in check_file(moving, moving.files["big"], tmp_path).detail
    assert "Not pinned: some/model (main)" in str(moving.moving_notice("p"))
    assert not _partial_files(tmp_path)


def test_the_list_of_profiles_names_the_sources_that_are_not_pinned(tmp_path: Path) -> None:
    """Of the shipped list, and of one of your own."""
    path = tmp_path / "own.json"
    path.write_text(manifest_for().model_dump_json(), encoding="utf-8")
    said = CliRunner().invoke(app, ["weights", "list"], env={"LIPSYNC_MANIFEST": str(path)})
    assert "Not pinned: some/model (main). Files come as their owner has them there today" in said.output
    source = {"s": manifest_for().sources["s"].model_copy(update={"revision": "c" * 40})}
    path.write_text(manifest_for().model_copy(update={"sources": source}).model_dump_json(), encoding="utf-8")
    load_manifest.cache_clear()
    said = CliRunner().invoke(app, ["weights", "list"], env={"LIPSYNC_MANIFEST": str(path)})
    assert "Not pinned" not in said.output


def test_a_source_with_the_checksum_of_each_file_does_not_move() -> None:
    a_sum, files = "a" * 64, manifest_for(sha256=None).files
    summed = {key: file.model_copy(update={"sha256": a_sum}) for key, file in files.items()}
    assert manifest_for(sha256=None).model_copy(update={"files": summed}).moving_sources() == []
    half = {**summed, "big": files["big"]}
    assert manifest_for(sha256=None).model_copy(update={"files": half}).moving_sources() == ["s"]
    index = {**summed, "big": summed["big"].model_copy(update={"named_bytes": 10})}
    assert manifest_for(sha256=None).model_copy(update={"files": index}).moving_sources() == ["s"]


def test_each_source_of_the_shipped_list_is_pinned_to_a_commit() -> None:
    assert [key for key, source in load_manifest().sources.items() if not source.is_pinned] == []
