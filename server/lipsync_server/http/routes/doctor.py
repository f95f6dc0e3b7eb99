"""GET /v1/doctor: driver, card, memory, disk and weights of the server's machine, and what to change."""

from dataclasses import asdict

from aiohttp import web

from lipsync_server.daemon_threads import in_daemon_thread
from lipsync_server.doctor.checks import examine
from lipsync_server.http import keys
from lipsync_server.http.answers import schemas
from lipsync_server.http.routing import Answer, Route, answer


async def doctor(request: web.Request) -> web.StreamResponse:
    """The findings of `lipsync doctor` on this machine."""
    settings = request.app[keys.SETTINGS]
    # In a thread of its own: a driver that hangs must not keep the server from stopping.
    report = await in_daemon_thread(lambda: examine(settings, ports=False))
    findings = [schemas.DoctorFinding.model_validate(asdict(finding)) for finding in report.findings]
    return answer(schemas.Doctor(engine=report.engine, findings=findings))


ROUTES = (
    Route(
        "GET",
        "/v1/doctor",
        doctor,
        "Check the machine",
        answers={200: Answer("The findings of `lipsync doctor`.", schemas.Doctor)},
        tag="server",
    ),
)
