"""The store in memory."""

from rbkit import events as ev
from rbkit.entries import seal_entry
from rbkit.stores.memory import MemoryStore


def test_two_stores_in_memory_share_nothing():
    """What is kept in one is not in another: no test sees another's runs."""
    one, other = MemoryStore(), MemoryStore()
    one.append(seal_entry("r", 0, "", "", "", ev.CancelRequested(reason=""), ""))
    one.keep("a", b"x")
    assert (other.runs(), other.fetch("a")) == ([], None)


def test_what_was_read_can_be_changed_without_harm():
    """A caller's list is its own."""
    store = MemoryStore()
    store.append(seal_entry("r", 0, "", "", "", ev.CancelRequested(reason=""), ""))
    store.read("r").clear()
    assert len(store.read("r")) == 1
