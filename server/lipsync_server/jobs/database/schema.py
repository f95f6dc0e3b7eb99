"""The tables of the database, and the steps from every older version to the newest.

`PRAGMA user_version` is the number of steps applied to a database. Steps are appended, never edited.
"""

STEPS: tuple[str, ...] = (
    """
    CREATE TABLE jobs (
        id TEXT PRIMARY KEY,
        state TEXT NOT NULL CHECK (state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')),
        wanted_engine TEXT NOT NULL,
        engine TEXT NOT NULL DEFAULT '',
        duration_s REAL NOT NULL,
        spec TEXT NOT NULL,
        created_at REAL NOT NULL,
        started_at REAL,
        finished_at REAL,
        collected_at REAL,
        expires_at REAL,
        purged_at REAL,
        deleted INTEGER NOT NULL DEFAULT 0,
        cancel_requested INTEGER NOT NULL DEFAULT 0,
        attempts INTEGER NOT NULL DEFAULT 0,
        n_crashes INTEGER NOT NULL DEFAULT 0,
        stage TEXT NOT NULL DEFAULT 'queued',
        fraction REAL NOT NULL DEFAULT 0,
        worker_s REAL NOT NULL DEFAULT 0,
        outcome TEXT,
        failure TEXT,
        cost TEXT,
        stored TEXT,
        stage_s TEXT NOT NULL DEFAULT '{}'
    ) WITHOUT ROWID;
    -- All that polling a waiting job asks of the others is in this index, so that thousands of them cost little.
    CREATE INDEX jobs_by_state ON jobs (state, id, wanted_engine, duration_s);
    CREATE INDEX jobs_by_expiry ON jobs (expires_at) WHERE purged_at IS NULL AND expires_at IS NOT NULL;

    CREATE TABLE idempotency (
        owner TEXT NOT NULL,
        key TEXT NOT NULL,
        fingerprint TEXT NOT NULL,
        job_id TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
        PRIMARY KEY (owner, key)
    ) WITHOUT ROWID;
    CREATE INDEX idempotency_by_job ON idempotency (job_id);

    CREATE TABLE outbox (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        job_id TEXT NOT NULL,
        url TEXT NOT NULL,
        body BLOB NOT NULL,
        created_at REAL NOT NULL,
        next_at REAL NOT NULL,
        attempts INTEGER NOT NULL DEFAULT 0,
        last_error TEXT NOT NULL DEFAULT ''
    );
    CREATE INDEX outbox_by_time ON outbox (next_at);
    """,
    """
    ALTER TABLE jobs ADD COLUMN failed_on TEXT NOT NULL DEFAULT '[]';
    -- Readings of the keeping clock (keeping_clock.py): when the video may go, and when the job ended.
    ALTER TABLE jobs ADD COLUMN keep_until REAL;
    ALTER TABLE jobs ADD COLUMN ended_on_clock REAL;
    CREATE TABLE keeping_clock (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        seconds REAL NOT NULL,
        boot_id TEXT NOT NULL,
        since_boot_s REAL NOT NULL
    );
    -- The clock starts at 0 here; videos of an older server get their whole time once more.
    UPDATE jobs SET ended_on_clock = 0 WHERE state IN ('succeeded', 'failed', 'cancelled');
    UPDATE jobs SET keep_until = max(0, expires_at - coalesce(collected_at, finished_at, created_at))
        WHERE expires_at IS NOT NULL;
    DROP INDEX jobs_by_expiry;
    CREATE INDEX jobs_by_keeping ON jobs (keep_until) WHERE purged_at IS NULL AND keep_until IS NOT NULL;
    """,
    """
    -- The times of the outbox are readings of the keeping clock from here on. Each waiting delivery is tried now.
    UPDATE outbox SET created_at = coalesce((SELECT seconds FROM keeping_clock), 0.0),
        next_at = coalesce((SELECT seconds FROM keeping_clock), 0.0);
    """,
    """
    CREATE TABLE webhooks (
        id TEXT PRIMARY KEY,
        owner TEXT NOT NULL,
        sees_all INTEGER NOT NULL,
        token_id TEXT NOT NULL,
        url TEXT NOT NULL,
        events TEXT NOT NULL,
        secret TEXT NOT NULL,
        created_at REAL NOT NULL,
        -- Deliveries in a row that were given up.
        n_given_up INTEGER NOT NULL DEFAULT 0,
        UNIQUE (owner, url)
    ) WITHOUT ROWID;
    -- NULL for the callback of one job.
    ALTER TABLE outbox ADD COLUMN webhook_id TEXT;
    """,
)
