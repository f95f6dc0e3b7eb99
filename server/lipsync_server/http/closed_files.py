"""Makes the database unreadable for other users of the machine.

The data folder may be a mounted volume that every user can read, and the database holds prompts, file names and
callback addresses. SQLite gives its -wal and -shm files the permissions of the database file.
"""

from pathlib import Path

_OWNER_ONLY = 0o600


def close_to_others(database: Path) -> None:
    """Remove other users' permissions from the database and its -wal and -shm files, as far as they exist."""
    for name in (database.name, f"{database.name}-wal", f"{database.name}-shm"):
        path = database.with_name(name)
        if path.exists():
            path.chmod(_OWNER_ONLY)
