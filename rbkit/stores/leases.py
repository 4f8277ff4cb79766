"""Who gets a lease: the one rule that every store keeps."""

from datetime import timedelta

from rbkit.store import Lease, Now

__all__ = ["take"]


def take(standing: Lease | None, name: str, holder: str, now: Now, ttl_s: float, *, fresh: bool = False) -> Lease:
    """Decide who has a lease after somebody has asked for it.

    Args:
        standing: The lease as it stands; None when nobody ever had it.
        name: What it is about.
        holder: Who asks.
        now: The present time, UTC.
        ttl_s: For how long, seconds.

    Returns:
        `standing` itself when somebody else's is live, so that there is nothing to write; else the asker's.
    """
    now = now() if callable(now) else now
    live = standing is not None and standing.live(now)
    if standing and live and standing.holder != holder:
        return standing
    token = (standing.token if standing else 0) + (0 if live and not fresh else 1)
    return Lease(name=name, holder=holder, token=token, until=now + timedelta(seconds=ttl_s), ttl_s=ttl_s)
