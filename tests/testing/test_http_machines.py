"""The doubles refuse what a careful service refuses."""

from typing import Any

import httpx2
import pytest

from rbkit.testing.http_machines import DeploymentsDouble, FlagsDouble

KEY = {"Idempotency-Key": "k"}
FLAG = {"value": 1, "inner": {"a": 1, "b": 2}}


@pytest.mark.parametrize(
    "method, path, headers, body, status",
    [
        ("GET", "/flags/limit", {}, None, 200),
        ("GET", "/flags/none", {}, None, 404),
        ("GET", "/flags/limit/x", {}, None, 404),
        ("GET", "/other/limit", {}, None, 404),
        ("DELETE", "/flags/limit", KEY, None, 400),
        ("PUT", "/flags/limit", {"If-Match": '"0"'}, FLAG, 400),
        ("PUT", "/flags/limit", KEY, FLAG, 428),
        ("PUT", "/flags/limit", {**KEY, "If-Match": '"1"'}, FLAG, 412),
        ("PUT", "/flags/limit", {**KEY, "If-Match": '"0"'}, {"value": 2}, 422),
        ("PUT", "/flags/limit", {**KEY, "If-Match": '"0"'}, {**FLAG, "value": 2}, 200),
        ("PATCH", "/flags/limit", {**KEY, "If-Match": '"0"'}, {"inner": {"a": 5}}, 200),
    ],
)
def test_flags_are_changed_only_with_key_and_tag(method, path, headers, body, status) -> None:
    """A change needs both; what was refused changed nothing; a patch keeps what it does not name."""
    with FlagsDouble({"limit": FLAG}) as double:
        answer = httpx2.request(method, double.url + path, headers=headers, json=body)
        assert answer.status_code == status
        wanted = {"PUT": {**FLAG, "value": 2}, "PATCH": {**FLAG, "inner": {"a": 5, "b": 2}}}
        assert double.flags["limit"] == (wanted.get(method, FLAG) if status == 200 else FLAG)
        assert double.writes["limit"] == (1 if status == 200 and method != "GET" else 0)


def test_what_somebody_else_writes_comes_after_the_reading() -> None:
    """The answer shows the old object with the old tag; only the next one shows the new."""
    with FlagsDouble({"limit": FLAG}) as double:
        double.meanwhile = {"value": 9}
        first, second = (httpx2.get(f"{double.url}/flags/limit") for _ in range(2))
    assert (first.json()["value"], first.headers["etag"]) == (1, '"0"')
    assert (second.json()["value"], second.headers["etag"]) == (9, '"1"')


@pytest.mark.parametrize(
    "method, path, headers, body, status",
    [
        ("GET", "/services/a", {}, None, 200),
        ("GET", "/services/a/versions", {}, None, 200),
        ("GET", "/services/b", {}, None, 404),
        ("GET", "/other/a", {}, None, 404),
        ("DELETE", "/services/a", {}, None, 405),
        ("POST", "/services/a/deploy", {"Fencing-Token": "1"}, {"version": "v1"}, 400),
        ("POST", "/services/a/deploy", KEY, {"version": "v1"}, 400),
        ("POST", "/services/a/deploy", {**KEY, "Fencing-Token": "4"}, {"version": "v1"}, 412),
        ("POST", "/services/a/deploy", {**KEY, "Fencing-Token": "5"}, {"version": "v9"}, 422),
        ("POST", "/services/a/deploy", {**KEY, "Fencing-Token": "5"}, {"version": "v1", "x": 1}, 422),
        ("POST", "/services/a/deploy", {**KEY, "Fencing-Token": "5"}, [], 422),
        ("POST", "/services/a/deploy", {**KEY, "Fencing-Token": "5"}, {"version": "v1"}, 202),
        ("PUT", "/services/a/fence", {"Fencing-Token": "6"}, {"token": 6}, 204),
    ],
)
def test_deployments_need_key_and_token(method: str, path: str, headers: Any, body: Any, status: int) -> None:
    """A token lower than one that was seen, and what is no version, change nothing."""
    with DeploymentsDouble({"a": {"v2": "", "v1": ""}}) as double:
        httpx2.put(f"{double.url}/services/a/fence", headers={"Fencing-Token": "5"}).raise_for_status()
        answer = httpx2.request(method, double.url + path, headers=headers, json=body)
        assert answer.status_code == status
        assert double.deployed == (["v1"] if status == 202 else [])
