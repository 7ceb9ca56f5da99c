"""The usage of a SQLite file by each tenant: triggers change it together with the records."""

import sqlite3

from gradmem_core.tenants import OWN_PREFIX
from service.stores.heads import memory_key
from service.stores.usage import Usage

USAGE_TABLES = (
    """CREATE TABLE IF NOT EXISTS usage (
        tenant TEXT PRIMARY KEY NOT NULL,  -- as keys begin with it: `NAME:`, or nothing
        memories INTEGER NOT NULL,
        bytes INTEGER NOT NULL  -- of their records
    ) WITHOUT ROWID""",
    """CREATE TRIGGER IF NOT EXISTS memories_counted AFTER INSERT ON memories BEGIN
        INSERT INTO usage
        VALUES (substr(NEW.key, 1, instr(NEW.key, ':')), 1, length(NEW.record))
        ON CONFLICT DO UPDATE SET memories = memories + 1, bytes = bytes + excluded.bytes;
    END""",
    """CREATE TRIGGER IF NOT EXISTS memories_resized AFTER UPDATE OF record ON memories BEGIN
        UPDATE usage SET bytes = bytes + length(NEW.record) - length(OLD.record)
        WHERE tenant = substr(NEW.key, 1, instr(NEW.key, ':'));
    END""",
    """CREATE TRIGGER IF NOT EXISTS memories_uncounted AFTER DELETE ON memories BEGIN
        UPDATE usage SET memories = memories - 1, bytes = bytes - length(OLD.record)
        WHERE tenant = substr(OLD.key, 1, instr(OLD.key, ':'));
    END""",
)


def count_all(connection: sqlite3.Connection) -> None:
    """Count what each tenant has in a file from before there were triggers."""
    connection.execute("DELETE FROM usage")
    connection.execute(
        "INSERT INTO usage SELECT substr(key, 1, instr(key, ':')), count(*), sum(length(record))"
        " FROM memories GROUP BY 1"
    )


def select_usage(connection: sqlite3.Connection, tenant: str) -> Usage:
    """Return what a tenant has."""
    row = connection.execute(
        "SELECT memories, bytes FROM usage WHERE tenant = ?", (memory_key(tenant, ""),)
    ).fetchone()
    return Usage(*row) if row else Usage()


def select_total_usage(connection: sqlite3.Connection) -> Usage:
    """Return what all tenants have, without those of the service itself."""
    row = connection.execute(
        "SELECT coalesce(sum(memories), 0), coalesce(sum(bytes), 0) FROM usage"
        " WHERE substr(tenant, 1, ?) != ?",
        (len(OWN_PREFIX), OWN_PREFIX),
    ).fetchone()
    return Usage(*row)
