"""Whatever a kernel publishes is masked before it leaves."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import SecretStr

from rbkit.lab.masks import mask_outputs
from rbkit.masking import MASK, forget, remember

SECRET = "hunter2-hunter2"


@pytest.fixture
def sent() -> Iterator[list[Any]]:
    """Remember what is sent."""
    remember(SecretStr(SECRET))
    yield []
    forget()


def session(sent: list[Any]) -> Any:
    """Make the session of a kernel whose outputs are masked, and its shell."""

    def send(socket: Any, kind: Any, content: Any = None, *more: Any, **named: Any) -> str:
        sent.append((kind, content) if isinstance(kind, str) else (kind["msg_type"], kind["content"]))
        return "sent"

    shell = SimpleNamespace(kernel=SimpleNamespace(session=SimpleNamespace(send=send)))
    mask_outputs(shell)
    masks = shell.kernel.session.send
    mask_outputs(shell)
    assert shell.kernel.session.send is masks
    return shell.kernel.session


def test_a_stream_is_masked_over_its_borders(sent):
    """A secret that is printed in two pieces is masked; what was held back comes before the cell is over."""
    kernel = session(sent)
    for text in ("it is hunter2-", "hunter2!", " and hunter2"):
        kernel.send(None, "stream", {"name": "stdout", "text": text})
    kernel.send(None, "status", {"execution_state": "busy"})
    kernel.send(None, "status", {"execution_state": "idle"})
    text = "".join(content["text"] for kind, content in sent if kind == "stream")
    assert text == f"it is {MASK}! and hunter2"
    assert [kind for kind, _ in sent[-2:]] == ["stream", "status"]


@pytest.mark.parametrize("kind", ["display_data", "execute_result", "error", "execute_reply"])
def test_every_output_is_masked(sent, kind):
    """As a message of its own and as a whole; other messages pass as they are."""
    kernel = session(sent)
    assert kernel.send(None, kind, {"data": {"text/plain": SECRET}}) == "sent"
    kernel.send(None, {"msg_type": kind, "content": {"traceback": [SECRET]}})
    kernel.send(None, "comm_open", {"data": "x"})
    assert sent == [(kind, {"data": {"text/plain": MASK}}), (kind, {"traceback": [MASK]}), ("comm_open", {"data": "x"})]


def test_a_shell_without_a_kernel_publishes_nothing():
    """In a terminal there is no session."""
    mask_outputs(SimpleNamespace())
