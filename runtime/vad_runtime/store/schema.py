"""The tables of `vad.db`, and how older ones become them."""

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """
        CREATE TABLE events (
            id TEXT PRIMARY KEY NOT NULL,
            site TEXT NOT NULL,
            stream TEXT NOT NULL,
            start_s REAL NOT NULL,
            end_s REAL,
            peak_s REAL NOT NULL,
            peak_score REAL NOT NULL,
            threshold REAL NOT NULL,
            reason TEXT NOT NULL,
            start_frame INTEGER NOT NULL,
            end_frame INTEGER,
            alarms INTEGER NOT NULL,
            suppressed INTEGER NOT NULL,
            ended_by TEXT,
            snapshot TEXT,
            clip TEXT
        )
        """,
        "CREATE INDEX events_by_start ON events (start_s)",
        "CREATE INDEX events_by_stream ON events (stream, start_s)",
        # Open events have NULL here, so this index finds them too.
        "CREATE INDEX events_by_end ON events (end_s)",
        """
        CREATE TABLE outbox (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            event_id TEXT NOT NULL REFERENCES events (id),
            kind TEXT NOT NULL CHECK (kind IN ('started', 'ended')),
            sink TEXT NOT NULL,
            stream TEXT NOT NULL,
            state TEXT NOT NULL DEFAULT 'pending'
                CHECK (state IN ('pending', 'sending', 'sent', 'given_up')),
            attempts INTEGER NOT NULL DEFAULT 0,
            created_s REAL NOT NULL,
            next_try_s REAL NOT NULL DEFAULT 0,
            settled_s REAL,
            maybe_repeated INTEGER NOT NULL DEFAULT 0,
            last_error TEXT NOT NULL DEFAULT '',
            record TEXT NOT NULL,
            UNIQUE (event_id, sink, kind)
        )
        """,
        # Only what is still to be done: it stays small however many rows were sent.
        """
        CREATE INDEX outbox_open ON outbox (sink, id) WHERE settled_s IS NULL
        """,
        "CREATE INDEX outbox_settled ON outbox (settled_s) WHERE settled_s IS NOT NULL",
        "CREATE TABLE counters (name TEXT PRIMARY KEY NOT NULL, value REAL NOT NULL)",
    ),
)
"""One tuple of statements a version, oldest first; never changed once released, only added to.

``events``    one row an event: `EventRecord`, column by column
``outbox``    one row for each start or end and each sink that is to hear of it. `record` is the
              event as JSON at that moment, so that a second try sends what the first one sent.
              All times are Unix seconds.
``counters``  sums over the life of the database, and `heartbeat_s`
"""

VERSION = len(MIGRATIONS)
"""`PRAGMA user_version` of a database of this version."""
