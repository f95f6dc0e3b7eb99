"""Decides whether this machine is still needed, for LIPSYNC_IDLE_STOP.

Knows the application's resources. Does not know how a machine is stopped.
"""

from aiohttp import web

from lipsync_server.http import keys


async def machine_is_needed(app: web.Application) -> bool:
    """Whether an upload, a weights download or a job is in progress, or a finished video exists only on this machine.

    A video counts until it is collected, for at most LIPSYNC_IDLE_STOP_UNCOLLECTED minutes: a forgotten video must not
    keep a rented machine running for a day.
    """
    profile = app[keys.PROFILE]
    if app[keys.SLOTS].n_taken or (profile is not None and profile.downloading):
        return True
    stay_s = app[keys.SETTINGS].idle_stop_uncollected * 60
    return await app[keys.QUEUE].store.anything_to_stay_for(finished_within_s=stay_s)
