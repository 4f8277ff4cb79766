"""The kinds of capability that hold data: databases, queues, caches, disks, certificates."""

from abc import abstractmethod
from datetime import datetime

from rbkit.capability import Capability, Facts, Plan, State, action, read
from rbkit.errors import Refused

__all__ = [
    "Bloat", "Blocked", "Cache", "CacheFacts", "Certificate", "Certificates", "Database", "Disk", "Filesystem",
    "Listing", "Message", "Queue", "QueueFacts", "Replica", "Session", "StaleFile",
]  # fmt: skip


class Session(Facts):
    """A session of a database; `target` names it for cancel and terminate, safe against a pid that is used again."""

    target: str
    pid: int
    user: str
    database: str
    application: str
    client: str
    state: str
    waits_for: str
    transaction_s: float
    query_s: float
    query: str


class Blocked(Facts):
    """A session that waits for a lock, and one that holds it."""

    waits: str
    holds: str
    relation: str
    mode: str
    waited_s: float


class Replica(Facts):
    """A replica, and how far it is behind; -1 where that is not known."""

    name: str
    state: str
    lag_bytes: int
    lag_s: float


class Bloat(Facts):
    """A table, and how much of it is dead."""

    table: str
    live: int
    dead: int
    vacuumed_at: datetime | None


class Database(Capability):
    """Sessions, locks, replication and bloat of a database.

    State of a session: `present`, `state` as the database calls it, and `query_started`, None when no query runs.
    """

    kind = "Database"

    @read
    @abstractmethod
    async def sessions(self, idle_in_transaction_s: float = 0.0, running_s: float = 0.0) -> list[Session]:
        """List the client sessions, the longest transaction first.

        Args:
            idle_in_transaction_s: Only those that are idle in a transaction for longer, seconds; 0 for all.
            running_s: Only those whose query has run for longer, seconds; 0 for all; with both, either will do.

        Returns:
            One Session each; queries are shortened and their literals taken out.
        """

    @read
    @abstractmethod
    async def blocked(self) -> list[Blocked]:
        """List who waits for whose lock, the longest wait first."""

    @read
    @abstractmethod
    async def replicas(self) -> list[Replica]:
        """List the replicas; empty when there is none."""

    @read
    @abstractmethod
    async def bloat(self, most: int = 20) -> list[Bloat]:
        """List the tables with the most dead rows."""

    @action
    def cancel(self, before: State) -> Plan:
        """Cancel the query that a session runs."""
        if not before["present"]:
            return Plan(after={"present": False})
        if before["state"] == "idle in transaction":
            raise Refused("The session runs no query, it keeps a transaction open: only terminate ends that.")
        if before["query_started"] is None:
            return Plan(after={"query_started": None})
        why = "the query is broken off and its work is lost; whoever sent it gets an error"
        return Plan(after={}, differs={"query_started": before["query_started"]}, irreversible=why)

    @action
    def terminate(self, before: State) -> Plan:
        """End a session; its transaction is rolled back."""
        why = "the session is ended and its transaction is rolled back; the client must connect again"
        return Plan(after={"present": False}, irreversible=why)


class QueueFacts(Facts):
    """A queue: how many messages wait, are being worked on, and by how many consumers; -1 where that is not known."""

    name: str
    depth: int
    unacknowledged: int
    consumers: int


class Message(Facts):
    """A message at the head of a queue; `name` names it for park, `sample` is shortened."""

    name: str
    redelivered: bool
    size: int
    sample: str


class Queue(Capability):
    """Queues and their parked messages. State: `depth`, `consumers`, `parked` (the names of parked messages).

    Nothing is ever thrown away: what is taken out of a queue is parked in a queue beside it, from where it comes back.
    """

    kind = "Queue"

    @read
    @abstractmethod
    async def queues(self, prefix: str = "") -> list[QueueFacts]:
        """List the queues whose names begin so, in a stable order."""

    @read
    @abstractmethod
    async def head(self, queue: str, most: int = 10) -> list[Message]:
        """Look at the messages at the head of a queue without taking them."""

    @action
    def park(self, before: State, message: str) -> Plan:
        """Take one message out of the queue and park it beside it."""
        return Plan(after={"parked": sorted({*before["parked"], message})}, undo=("unpark", {"message": message}))

    @action
    def unpark(self, before: State, message: str) -> Plan:
        """Put one parked message back at the end of its queue."""
        left = sorted(name for name in before["parked"] if name != message)
        return Plan(after={"parked": left}, undo=("park", {"message": message}))


class CacheFacts(Facts):
    """A cache: its memory in bytes (`most` 0: no limit), what it does when it is full, and what that has cost."""

    used: int
    most: int
    policy: str
    evicted: int
    hits: int
    misses: int
    keys: int


class Cache(Capability):
    """A cache. The target is one of its settings, as `maxmemory`, or a pattern of keys.

    State of a setting: `value`. State of a pattern: `keys`, counted up to one more than may be evicted at once; `most`,
    how many may be; `evictions`, how often it was evicted: a cache in use fills up again at once.
    """

    kind = "Cache"

    @read
    @abstractmethod
    async def facts(self) -> CacheFacts:
        """Say how full the cache is."""

    @read
    @abstractmethod
    async def largest(self, pattern: str = "*", most: int = 20) -> dict[str, int]:
        """List the largest keys among a sample, with their bytes; the keyspace is never read as a whole."""

    @action
    def configure(self, before: State, value: str) -> Plan:
        """Give a setting a value, written as the cache writes it itself."""
        if "value" not in before:
            raise Refused("configure needs a setting that the environment file allows as its target, not keys.")
        return Plan(after={"value": value}, undo=("configure", {"value": before["value"]}))

    @action
    def evict(self, before: State) -> Plan:
        """Remove the keys that match the target, at most as many as the environment file allows."""
        if "keys" not in before:
            raise Refused("evict needs a pattern of keys as its target, not a setting.")
        if before["keys"] > before["most"]:
            raise Refused(f"More than {before['most']} keys match; narrow the pattern or raise the limit.")
        if not before["keys"]:
            return Plan(after={"keys": 0})
        why = "the keys are gone; whoever needs them computes them again"
        return Plan(after={}, differs={"evictions": before["evictions"]}, irreversible=why)


class Filesystem(Facts):
    """A file system, in bytes and as a share from 0 to 1."""

    path: str
    size: int
    free: int
    used_share: float
    inodes_used_share: float


class StaleFile(Facts):
    """A file that matches a clean-up; `held_by` names the process that has it open: then it is left alone."""

    path: str
    size: int
    modified_at: datetime
    held_by: str = ""


class Listing(Facts):
    """What a clean-up would remove now; `listing` names exactly these files, for `clean`; `held` is left alone."""

    listing: str
    bytes: int
    files: list[StaleFile]
    held: list[StaleFile]


class Disk(Capability):
    """Disks, and clean-ups that are known to be safe. The target is a clean-up of the environment file.

    State: `files` and `bytes` that it would remove, `listing`, the digest of these files, and `most`, how many files
    it may remove at once.
    """

    kind = "Disk"

    @read
    @abstractmethod
    async def usage(self, path: str) -> Filesystem:
        """Say how full the file system under a path is."""

    @read
    @abstractmethod
    async def stale(self, cleanup: str) -> Listing:
        """List what a clean-up would remove, the oldest first.

        Raises:
            NotFound: The environment file names no such clean-up.
        """

    @action
    def clean(self, before: State, listing: str) -> Plan:
        """Remove exactly the files that were listed."""
        if before["files"] and listing != before["listing"]:
            raise Refused("The files have changed since they were listed; list them again.")
        if before["files"] > before["most"]:
            raise Refused(f"{before['files']} files would be removed; the clean-up may remove {before['most']}.")
        return Plan(after={"files": 0}, irreversible=f"{before['files']} files are removed for good")


class Certificate(Facts):
    """The certificate that a server shows in a real handshake."""

    address: str
    subject: str
    issuer: str
    names: list[str]
    expires_at: datetime
    days_left: float
    trusted: bool
    problem: str


class Certificates(Capability):
    """Certificates of servers. They are only read; how they are renewed differs everywhere: use Command."""

    kind = "Certificates"

    @read
    @abstractmethod
    async def certificate(self, address: str) -> Certificate:
        """Make a TLS handshake and say what the server shows; `address` is `host:port`."""
