"""Asks the services of AWS CloudWatch page after page, in the thread of whoever asks; its errors become rbkit's."""

import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

from rbkit.adapters.aws_http import capped
from rbkit.errors import BadAnswer, NotFound, Refused, SecretError, SettingsError, Unreachable

__all__ = ["Api"]

_CONNECT_S, _READ_S, _WHOLE_S = 3.0, 10.0, 12.0
_MOST_PAGES = 200
_THROTTLED = {"Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequestsException", "LimitExceeded"}
_DENIED = ("AccessDenied", "Unauthorized", "UnrecognizedClient", "InvalidClientTokenId", "Signature", "ExpiredToken")


class Api:
    """A client of one AWS service that only reads; made when it is first used, in the thread that uses it.

    Args:
        service: The service, as boto3 calls it.
        region: The region.
        url: Another endpoint than the region's own; empty for that one.
        profile: The profile of the AWS configuration; empty for the default.
    """

    def __init__(self, service: str, region: str, url: str, profile: str) -> None:
        self._service, self._region, self._url, self._profile = service, region, url, profile
        self._client: Any = None
        self._making = threading.Lock()

    def __str__(self) -> str:
        return f"CloudWatch {self._service} in {self._region}".replace("CloudWatch cloudwatch", "CloudWatch")

    @property
    def who(self) -> str:
        """With whose credentials it asks."""
        return f"profile {self._profile}" if self._profile else "with the credentials that every AWS tool finds"

    def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            self._client.close()

    def odd(self) -> BadAnswer:
        """Say that an answer has not the documented form."""
        return BadAnswer(f"{self} answered in a form that its API does not document.", fault=True)

    def pages(self, method: str, token: str, request: Mapping[str, Any]) -> Iterator[Any]:
        """Ask page after page, until there is none; an end comes in any case.

        Raises:
            AdapterError: The service did not give a usable answer.
            SecretError: There are no credentials.
        """
        ends, more = time.monotonic() + _WHOLE_S, dict(request)
        for _ in range(_MOST_PAGES):
            answer = self._asked(method, more)
            yield answer
            if not answer.get(token):
                return
            if time.monotonic() > ends:
                raise Unreachable(f"{self} did not give its whole answer within {_WHOLE_S:g} s.")
            more[token] = answer[token]
        raise BadAnswer(f"{self} answered with more than {_MOST_PAGES} pages.", todo="Narrow the window.")

    def _asked(self, method: str, request: Mapping[str, Any]) -> Any:
        try:
            from botocore import exceptions as away
            from botocore.parsers import ResponseParserError
        except ImportError as error:
            raise SettingsError("CloudWatch needs boto3.", todo="Install rbkit with the extra `aws`.") from error
        try:
            return getattr(self._made(), method)(**request)
        except away.ClientError as error:
            raise self._refusal(error.response, method) from error
        except (away.NoCredentialsError, away.PartialCredentialsError, away.CredentialRetrievalError) as error:
            raise SecretError(f"{self}: {_words(error)}") from error
        except (away.ConnectionError, away.HTTPClientError, away.IncompleteReadError) as error:
            raise Unreachable(f"{self} did not answer: {_words(error)}") from error
        except (ResponseParserError, RecursionError) as error:
            raise self.odd() from error
        except (away.BotoCoreError, ValueError) as error:
            raise BadAnswer(
                f"{self} cannot be asked this: {_words(error)}", todo="Check region, url, profile."
            ) from error

    def _made(self) -> Any:
        from boto3.session import Session
        from botocore.config import Config

        patience = Config(connect_timeout=_CONNECT_S, read_timeout=_READ_S, retries={"total_max_attempts": 1})
        with self._making:
            if self._client is None:
                session = Session(profile_name=self._profile or None, region_name=self._region)
                made = session.client(self._service, endpoint_url=self._url or None, config=patience)
                self._client = capped(made, str(self))
        return self._client

    def _refusal(self, answer: Any, method: str) -> Exception:
        """Tell what an error of the API means."""
        status = int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        code, said = (str(answer.get("Error", {}).get(name, "")) for name in ("Code", "Message"))
        words = f"{self} answered {status} to {method}: {code}: {said[:300]}"
        if code in _THROTTLED or status == 429 or not 400 <= status < 500:
            return BadAnswer(words, todo="Wait a little, then ask again.", fault=True)
        if code.startswith("ResourceNotFound") or status == 404:
            return NotFound(words, todo="Check the name of the log group and the region.")
        if status in {401, 403} or any(word in code for word in _DENIED):
            return Refused(words, todo="Look at the credentials and the role's policy.")
        return BadAnswer(words, todo="Check the query.")


def _words(error: Exception) -> str:
    return (str(error) or type(error).__name__)[:300]
