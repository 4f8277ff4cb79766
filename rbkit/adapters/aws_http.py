"""Bounds what AWS may answer: its SDK reads an answer whole, however large it is."""

from typing import Any

from rbkit.costs import bounded, spend

__all__ = ["capped"]

_CHUNK = 65_536


def capped(client: Any, who: str) -> Any:
    """Let a client of boto3 count what it reads, and stop at the limit of the endpoint.

    Args:
        client: The client.
        who: The service, for the error.

    Returns:
        The same client. A read that is broken off is one of botocore's errors, too much is BadAnswer.
    """
    session = client._endpoint.http_session
    send = session.send

    def send_capped(request: Any) -> Any:
        from botocore.exceptions import HTTPClientError
        from urllib3.exceptions import HTTPError

        request.stream_output = True  # botocore then leaves the body to be read here
        answer = send(request)
        answer.raw.enforce_content_length = True  # else half of a body passes for a whole one
        parts = []
        with bounded():
            try:
                for part in answer.raw.stream(_CHUNK):
                    spend(len(part), who)
                    parts.append(part)
            except (HTTPError, OSError) as error:
                raise HTTPClientError(error=error) from error
        answer._content = b"".join(parts)
        return answer

    session.send = send_capped
    return client
