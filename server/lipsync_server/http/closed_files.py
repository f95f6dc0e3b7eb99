"""Keeps the database closed to other users of the machine.

The data folder may be a mounted volume that everybody can read, and the database holds prompts, file names and callback
addresses. SQLite makes its -wal and -shm files with the mode of the database.
"""

from pathlib import Path

_OWNER_ONLY = 0o600


def close_to_others(database: Path) -> None:
    """Take other users' access to the database and its companions away, as far as the files exist."""
    for name in (database.name, f"{database.name}-wal", f"{database.name}-shm"):
        path = database.with_name(name)
        if path.exists():
            path.chmod(_OWNER_ONLY)
