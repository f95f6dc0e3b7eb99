"""A real S3 server, SeaweedFS, as a process on loopback, and a slow line to it."""

import asyncio
import json
import subprocess
import sysconfig
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aioboto3
import aiohttp
from server_process import free_port

WEED = Path(sysconfig.get_path("scripts")) / "weed"
KEY, SECRET = "test-key", "test-secret"


@dataclass
class Bucket:
    """A bucket on that server."""

    port: int
    name: str = "videos"

    def client(self) -> AbstractAsyncContextManager[Any]:
        client: AbstractAsyncContextManager[Any] = aioboto3.Session().client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{self.port}",
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
            region_name="us-east-1",
        )
        return client

    async def contents(self) -> dict[str, bytes]:
        """Every object by its key."""
        async with self.client() as client:
            listed = (await client.list_objects_v2(Bucket=self.name)).get("Contents", [])
            found = {}
            for entry in listed:
                answer = await client.get_object(Bucket=self.name, Key=entry["Key"])
                found[entry["Key"]] = await answer["Body"].read()
        return found


@contextmanager
def s3_process(folder: Path) -> Iterator[int]:
    """Start the server on empty storage; yields its port. The server answers after some seconds."""
    folder.mkdir()
    keys = folder / "keys.json"
    credentials = [{"accessKey": KEY, "secretKey": SECRET}]
    keys.write_text(json.dumps({"identities": [{"name": "test", "credentials": credentials, "actions": ["Admin"]}]}))
    flags = ["-dir", str(folder), "-ip", "127.0.0.1", "-ip.bind", "127.0.0.1", "-volume.max", "20", "-s3"]
    flags += ["-s3.config", str(keys), "-master.volumeSizeLimitMB", "64"]
    # Two services at fixed ports, which a second server on this machine would not get.
    flags += ["-s3.port.iceberg", "0", "-s3.port.lance", "0"]
    port = free_port()
    for part in ("master", "volume", "filer", "s3"):
        flags += [f"-{part}.port", str(port if part == "s3" else free_port()), f"-{part}.port.grpc", str(free_port())]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([WEED, "server", *flags], stdout=log, stderr=log, cwd=folder)
        try:
            yield port
        finally:
            process.kill()
            process.wait()


async def ready_bucket(port: int) -> Bucket:
    """A new bucket, once the server answers."""
    bucket = Bucket(port)
    async with asyncio.timeout(60), aiohttp.ClientSession() as session:
        while True:
            try:
                async with session.get(f"http://127.0.0.1:{port}/") as response:
                    if response.status < 500:
                        break
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.1)
        async with bucket.client() as client:
            await client.create_bucket(Bucket=bucket.name)
    return bucket


@dataclass
class Line:
    """A TCP line to `target`: every answer is `delay_s` late; while `cut`, no byte is passed on."""

    port: int
    target: int
    delay_s: float = 0.0
    cut: bool = False


@asynccontextmanager
async def slow_line(target: int) -> AsyncIterator[Line]:
    line = Line(free_port(), target)

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_s: float) -> None:
        try:
            while data := await reader.read(65536):
                await asyncio.sleep(delay_s)
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if line.cut:
            writer.close()
            return
        there, back = await asyncio.open_connection("127.0.0.1", line.target)
        await asyncio.gather(pump(reader, back, 0.0), pump(there, writer, line.delay_s))

    async with await asyncio.start_server(connect, "127.0.0.1", line.port):
        yield line
