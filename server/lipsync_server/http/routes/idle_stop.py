"""GET /v1/idle-stop: when this machine stops itself, and the cost of a start. POST /v1/idle-stop/keep: let it stay.

Knows the watch of cloud/this_machine/idle.py. Does not know how a machine is stopped.
"""

from aiohttp import web
from pydantic import ValidationError

from lipsync_server.cloud.costs.cost import STARTUP_MIN, start_cost
from lipsync_server.errors import Conflict, InvalidInput
from lipsync_server.http import keys
from lipsync_server.http.answers import schemas
from lipsync_server.http.routing import Answer, Route, answer


async def idle_stop(request: web.Request) -> web.StreamResponse:
    """The countdown of the idle stop."""
    return answer(_state(request.app))


async def keep(request: web.Request) -> web.StreamResponse:
    """Keep this machine on for some minutes."""
    watch = request.app[keys.IDLE]
    if watch is None:
        raise Conflict("This machine does not stop itself (LIPSYNC_IDLE_STOP is 0), so nobody has to keep it.")
    try:
        asked = schemas.KeepRequest.model_validate_json(await request.read() or b"{}")
    except ValidationError as error:
        raise InvalidInput(
            'The body must be JSON such as {"minutes": 30}, with 0 to 720 minutes.', field="minutes"
        ) from error
    watch.keep(asked.minutes * 60)
    return answer(_state(request.app))


def _state(app: web.Application) -> schemas.IdleStop:
    settings, watch = app[keys.SETTINGS], app[keys.IDLE]
    price = settings.price_per_hour
    cost = None
    if price is not None:
        cost = schemas.StartCost(
            amount=start_cost(price, settings.idle_stop),
            currency=settings.currency,
            minutes_until_ready=STARTUP_MIN,
            minutes_until_stop=settings.idle_stop,
        )
    return schemas.IdleStop(
        enabled=watch is not None,
        after_minutes=settings.idle_stop,
        in_s=None if watch is None else watch.left_s(),
        kept_s=0 if watch is None else watch.kept_s(),
        price_per_hour=price,
        start_cost=cost,
    )


ROUTES = (
    Route(
        "GET",
        "/v1/idle-stop",
        idle_stop,
        "See when the machine stops itself",
        answers={200: Answer("The countdown, and the cost of a start.", schemas.IdleStop)},
        tag="server",
    ),
    Route(
        "POST",
        "/v1/idle-stop/keep",
        keep,
        "Keep the machine",
        answers={200: Answer("The new countdown.", schemas.IdleStop)},
        problems=(409, 422),
        forms={"application/json": schemas.KeepRequest},
        description="The machine runs for at least so many minutes, even when idle, and the provider charges for them.",
        tag="server",
    ),
)
