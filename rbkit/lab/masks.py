"""Masks what a kernel says: whatever it publishes passes here before it leaves."""

from typing import Any

from rbkit.masking import Stream, masked

__all__ = ["mask_outputs"]

_SPOKEN = {"stream", "display_data", "update_display_data", "execute_result", "error", "execute_reply", "inspect_reply"}


def mask_outputs(shell: Any) -> None:
    """Let no secret that was fetched leave this kernel in an output; once is enough.

    Args:
        shell: The IPython shell; one without a kernel publishes nothing.
    """
    session = getattr(getattr(shell, "kernel", None), "session", None)
    if session is None or getattr(session.send, "masks", False):
        return
    send, streams = session.send, dict[str, Stream]()

    def send_masked(socket: Any, kind: Any, content: Any = None, *more: Any, **named: Any) -> Any:
        word = kind if isinstance(kind, str) else kind.get("msg_type", "")
        said = content if isinstance(kind, str) else kind.get("content")
        if word == "status" and said.get("execution_state") == "idle":
            for name, stream in streams.items():
                if rest := stream.rest():
                    send(socket, "stream", {"name": name, "text": rest}, *more, **named)
        if word not in _SPOKEN:
            return send(socket, kind, content, *more, **named)
        said = masked(said) if word != "stream" else _piece(streams, said)
        return send(socket, kind, said, *more, **named) if isinstance(kind, str) else send(
            socket, {**kind, "content": said}, content, *more, **named
        )  # fmt: skip

    send_masked.masks = True  # type: ignore[attr-defined]
    session.send = send_masked


def _piece(streams: dict[str, Stream], said: dict[str, Any]) -> dict[str, Any]:
    stream = streams.setdefault(said["name"], Stream())
    return {**said, "text": stream.feed(said["text"])}
