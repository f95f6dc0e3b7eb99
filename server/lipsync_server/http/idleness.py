"""Whether this machine is still needed: the question that LIPSYNC_IDLE_STOP asks.

Knows the application's resources. Does not know how a machine is stopped.
"""

from aiohttp import web

from lipsync_server.http import keys


async def machine_is_needed(app: web.Application) -> bool:
    """Whether an upload, a download of weights or a job is under way, or a finished video lies nowhere else.

    A video counts until it is collected, and for LIPSYNC_IDLE_STOP_UNCOLLECTED minutes at most: a forgotten one must
    not keep a rented machine running for a day.
    """
    profile = app[keys.PROFILE]
    if app[keys.SLOTS].n_taken or (profile is not None and profile.downloading):
        return True
    stay_s = app[keys.SETTINGS].idle_stop_uncollected * 60
    return await app[keys.QUEUE].store.anything_to_stay_for(finished_within_s=stay_s)
