"""On which terms a gate lets changes through."""

from collections.abc import Callable
from dataclasses import dataclass, field

from rbkit.leases import LEASE_S
from rbkit.policy import ApprovalRules

__all__ = ["Terms"]


@dataclass(frozen=True, slots=True)
class Terms:
    """On which terms a gate lets changes through.

    Args:
        rules: What the environment file says of approvals.
        holder: In whose name targets are held; a new one when empty.
        lease_s: How long a lease lasts unless it is renewed, seconds.
        on_disk: Returns the digest of the runbook's file as it is now.
        say: Shows one line: a glyph and a text.
    """

    rules: ApprovalRules = field(default_factory=ApprovalRules)
    holder: str = ""
    lease_s: float = LEASE_S
    on_disk: Callable[[], str] = str
    say: Callable[[str, str], None] = lambda glyph, text: None
