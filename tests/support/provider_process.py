"""The stand-in of a provider's API as a process of its own, for tests that are not written in Python.

Prints its address. Reads scripts from standard input, one JSON object a line: `{"call": "GET /pods", "answers": [[200,
{}]]}`. Prints every call that it got, one JSON object a line. Ends with its standard input.
"""

import asyncio
import json
import sys
from dataclasses import asdict

from provider import Asked, serve_provider


class _Printed(list[Asked]):
    """A list that prints each call when it is added."""

    def append(self, asked: Asked) -> None:
        super().append(asked)
        print(json.dumps(asdict(asked)), flush=True)


async def main() -> None:
    async with serve_provider() as stand_in:
        stand_in.asked = _Printed()
        print(stand_in.url, flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            script = json.loads(line)
            stand_in.answers(script["call"], *((status, body) for status, body in script["answers"]))
            print(json.dumps({"scripted": script["call"]}), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
