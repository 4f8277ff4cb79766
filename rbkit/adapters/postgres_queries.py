"""What the PostgreSQL adapter asks, PostgreSQL 14 and later; every value is a bind.

Source: https://www.postgresql.org/docs/current/monitoring-stats.html
"""

__all__ = ["ACT", "BLOAT", "BLOCKED", "MOST_ROWS", "PING", "REPLICAS", "SESSIONS", "STATE", "TERMS"]

MOST_ROWS = 1_000
"""The most rows that a read returns."""

_NAME = "{0}.pid || '@' || to_char({0}.backend_start AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"
_SECONDS = "greatest(0, coalesce(extract(epoch FROM clock_timestamp() - {0}), 0))::float8"
_RUNS = "state IN ('active', 'fastpath function call')"

TERMS = "SELECT set_config('transaction_read_only', 'on', true), set_config('statement_timeout', :ms, true)"
"""What holds for the transaction: nothing is written, and the server itself ends what takes too long."""

SESSIONS = f"""
    SELECT * FROM (
        SELECT {_NAME.format("s")} AS target, s.pid, coalesce(s.usename, '') AS user, s.backend_type IS NULL AS hidden,
               coalesce(s.datname, '') AS database, coalesce(s.application_name, '') AS application,
               coalesce(host(s.client_addr), 'local') AS client, coalesce(s.state, '') AS state,
               coalesce(s.wait_event_type || ': ' || s.wait_event, '') AS waits_for,
               {_SECONDS.format("s.xact_start")} AS transaction_s,
               CASE WHEN {_RUNS} THEN {_SECONDS.format("s.query_start")} ELSE 0 END AS query_s,
               {_SECONDS.format("s.state_change")} AS unchanged_s, left(s.query, 2000) AS query
        FROM pg_stat_activity s
        WHERE coalesce(s.backend_type, 'client backend') = 'client backend' AND s.pid <> pg_backend_pid()
    ) found
    WHERE (:idle = 0 AND :running = 0) OR (:running > 0 AND query_s > :running)
       OR (:idle > 0 AND state LIKE 'idle in transaction%' AND unchanged_s > :idle)
       OR hidden
    ORDER BY transaction_s DESC, pid LIMIT {MOST_ROWS}
"""  # noqa: S608  (made of constants only)

BLOCKED = f"""
    SELECT {_NAME.format("w")} AS waits, coalesce({_NAME.format("h")}, 'a prepared transaction') AS holds,
           w.backend_type IS NULL OR (h.pid IS NOT NULL AND h.backend_type IS NULL) AS hidden,
           coalesce(lock.mode, '') AS mode,
           {_SECONDS.format("coalesce(lock.waitstart, w.query_start)")} AS waited_s,
           coalesce(CASE WHEN lock.database = here.oid THEN lock.relation::regclass::text
                         ELSE lock.relation::text END, '') AS relation
    FROM pg_stat_activity w
    CROSS JOIN LATERAL (SELECT DISTINCT unnest(pg_blocking_pids(w.pid)) AS pid) b
    LEFT JOIN pg_stat_activity h ON h.pid = b.pid
    LEFT JOIN LATERAL (
        SELECT l.mode, l.waitstart, coalesce(l.relation, t.relation) AS relation,
               coalesce(l.database, t.database) AS database
        FROM pg_locks l
        LEFT JOIN pg_locks t ON t.pid = l.pid AND t.locktype = 'tuple' AND t.granted
        WHERE l.pid = w.pid AND NOT l.granted LIMIT 1
    ) lock ON true
    LEFT JOIN pg_database here ON here.datname = current_database()
    WHERE w.wait_event_type = 'Lock' OR w.backend_type IS NULL
    ORDER BY waited_s DESC, waits, holds LIMIT {MOST_ROWS}
"""  # noqa: S608  (made of constants only)

REPLICAS = f"""
    SELECT name, state, hidden, lag_bytes,
           CASE WHEN lag_bytes = 0 THEN 0 ELSE coalesce(lag_s, -1) END::float8 AS lag_s
    FROM (
        SELECT coalesce(nullif(application_name, ''), host(client_addr), 'local') AS name,
               coalesce(state, '') AS state, state IS NULL AS hidden, extract(epoch FROM replay_lag) AS lag_s,
               coalesce(greatest(0, pg_wal_lsn_diff(
                   CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn() ELSE pg_current_wal_lsn() END,
                   coalesce(replay_lsn, flush_lsn, write_lsn))), -1)::bigint AS lag_bytes
        FROM pg_stat_replication
    ) found
    ORDER BY name, lag_bytes LIMIT {MOST_ROWS}
"""  # noqa: S608  (made of constants only)

BLOAT = """
    SELECT schemaname || '.' || relname AS table, n_live_tup AS live, n_dead_tup AS dead,
           greatest(last_vacuum, last_autovacuum) AS vacuumed_at
    FROM pg_stat_user_tables ORDER BY n_dead_tup DESC, 1 LIMIT :most
"""

STATE = f"""
    SELECT backend_start IS NULL AS hidden, coalesce(state, '') AS state,
           CASE WHEN {_RUNS} THEN query_start END AS query_started
    FROM pg_stat_activity WHERE pid = :pid AND (backend_start = :start OR backend_start IS NULL)
"""  # noqa: S608  (made of constants only)

PING = """
    SELECT current_user AS who, current_setting('server_version') AS version,
           pg_has_role(current_user, 'pg_read_all_stats', 'USAGE') AS sees,
           pg_has_role(current_user, 'pg_signal_backend', 'USAGE') AS signals
"""

ACT = """
    WITH found AS MATERIALIZED (
        SELECT s.pid, s.pid = pg_backend_pid() AS own, s.backend_type, coalesce(r.rolsuper, false) AS super,
               s.backend_start IS NULL AS hidden
        FROM pg_stat_activity s LEFT JOIN pg_roles r ON r.oid = s.usesysid
        WHERE s.pid = :pid AND (s.backend_start = :start OR s.backend_start IS NULL)
    )
    SELECT own, super, hidden, coalesce(backend_type, '') AS type,
           CASE WHEN own OR hidden OR (super AND NOT :superusers) THEN false
                WHEN backend_type = 'client backend' OR (backend_type = 'walsender' AND :replication)
                THEN {0} END AS done
    FROM found
"""
"""Acts on a pid only while it is still the session that is meant, and only where it is allowed, in one statement."""
