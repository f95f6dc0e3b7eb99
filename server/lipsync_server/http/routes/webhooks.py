"""Webhooks over HTTP: add, list, read and remove addresses that get a signed POST for every job that ends.

Knows the store of webhooks and the address checks of callbacks. Holds no state.
"""

from datetime import UTC, datetime

from aiohttp import web

from lipsync_server.http import keys
from lipsync_server.http.answers import schemas
from lipsync_server.http.callers.addresses import checked_url
from lipsync_server.http.callers.auth import CALLER
from lipsync_server.http.inputs.small_body import small_object
from lipsync_server.http.routing import JOB_ID, Answer, Parameter, Route, answer
from lipsync_server.jobs.database.webhooks import Webhook


async def add_webhook(request: web.Request) -> web.StreamResponse:
    """Add a webhook."""
    values = await small_object(request)
    if "url" in values:
        values["url"] = checked_url(values["url"], "url")
    wanted = schemas.WebhookRequest.model_validate(values)
    url = str(wanted.url)
    await request.app[keys.FETCHER].check(url, "url")
    caller = request[CALLER]
    webhook = await request.app[keys.WEBHOOKS].put(
        owner=caller.name, sees_all=caller.is_owner, token_id=caller.token_id, url=url, events=wanted.events
    )
    added = schemas.NewWebhook(**_fields(webhook), secret=webhook.secret)
    return answer(added, status=201, headers={"Cache-Control": "no-store"})


async def list_webhooks(request: web.Request) -> web.StreamResponse:
    """The caller's webhooks."""
    found = await request.app[keys.WEBHOOKS].of(_owner(request))
    return answer(schemas.WebhookList(webhooks=[schemas.Webhook(**_fields(webhook)) for webhook in found]))


async def show_webhook(request: web.Request) -> web.StreamResponse:
    """One webhook."""
    webhook = await request.app[keys.WEBHOOKS].get(request.match_info["webhook_id"], _owner(request))
    return answer(schemas.Webhook(**_fields(webhook)))


async def show_delivery(request: web.Request) -> web.StreamResponse:
    """The delivery of one job to a webhook."""
    webhooks = request.app[keys.WEBHOOKS]
    webhook = await webhooks.get(request.match_info["webhook_id"], _owner(request))
    job_id = request.match_info["job_id"]
    return answer(schemas.Delivery(job_id=job_id, waits=await webhooks.waits(webhook.id, job_id)))


async def remove_webhook(request: web.Request) -> web.StreamResponse:
    """Remove a webhook."""
    webhooks = request.app[keys.WEBHOOKS]
    webhook = await webhooks.get(request.match_info["webhook_id"], _owner(request))
    await webhooks.remove(webhook.id)
    return web.Response(status=204)


def _owner(request: web.Request) -> str | None:
    """The owner whose webhooks the caller may see; None for the webhooks of all owners."""
    caller = request[CALLER]
    return None if caller.is_owner else caller.name


def _fields(webhook: Webhook) -> schemas.WebhookFields:
    return {
        "id": webhook.id,
        "owner": webhook.owner,
        "url": webhook.url,
        "events": list(webhook.events),
        "created_at": datetime.fromtimestamp(webhook.created_at, UTC),
    }


_WEBHOOK_ID = Parameter(
    "webhook_id", "path", "The webhook's id.", {"type": "string", "minLength": 1, "maxLength": 64}, required=True
)

ROUTES = (
    Route(
        "POST",
        "/v1/webhooks",
        add_webhook,
        "Add a webhook",
        answers={
            201: Answer("The webhook, with the key of its signatures. The key is shown once.", schemas.NewWebhook)
        },
        problems=(400, 409, 413, 415, 422),
        forms={"application/json": schemas.WebhookRequest},
        description="The address gets a signed POST for every job of this token that ends, and a token without a name "
        "hears of every job. The same address again replaces the earlier webhook. A webhook is removed with its token, "
        "when the address answers 410, and when twenty deliveries in a row were given up.",
        tag="webhooks",
    ),
    Route(
        "GET",
        "/v1/webhooks",
        list_webhooks,
        "List webhooks",
        answers={200: Answer("The webhooks of this token, oldest first.", schemas.WebhookList)},
        tag="webhooks",
    ),
    Route(
        "GET",
        "/v1/webhooks/{webhook_id}",
        show_webhook,
        "Read a webhook",
        answers={200: Answer("The webhook, without its key.", schemas.Webhook)},
        problems=(404,),
        parameters=(_WEBHOOK_ID,),
        tag="webhooks",
    ),
    Route(
        "GET",
        "/v1/webhooks/{webhook_id}/deliveries/{job_id}",
        show_delivery,
        "Ask whether a delivery is still open",
        answers={200: Answer("Whether the server waits for the answer to the POST of this job.", schemas.Delivery)},
        problems=(404,),
        parameters=(_WEBHOOK_ID, JOB_ID),
        description="A receiver asks this to recognise a replay: a POST that somebody recorded and sends again. "
        "`waits` is true until the address has answered the server with success, and false afterwards.",
        tag="webhooks",
    ),
    Route(
        "DELETE",
        "/v1/webhooks/{webhook_id}",
        remove_webhook,
        "Remove a webhook",
        answers={204: Answer("The webhook and its waiting deliveries are gone.", empty=True)},
        problems=(404,),
        parameters=(_WEBHOOK_ID,),
        tag="webhooks",
    ),
)
