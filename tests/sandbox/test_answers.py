"""What is under way when something newer or the same comes: idempotency keys and fences, move by move."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tornado.httpclient import AsyncHTTPClient, HTTPResponse

from rbkit.sandbox.answers import MOST_KEYS, Answers
from rbkit.sandbox.child import Child
from rbkit.sandbox.layout import Layout
from rbkit.sandbox.lifecycle import free_base_port
from rbkit.sandbox.supervisor import Supervisor
from rbkit.sandbox.supervisor_api import supervisor_application
from rbkit.sandbox.web import Refusal, listen


class Work:
    """Something that is done when the test says so, and counts how often."""

    def __init__(self, *ends: Exception | None) -> None:
        self.ends, self.done, self.may_end = list(ends), 0, asyncio.Event()

    async def __call__(self) -> dict[str, Any]:
        """Wait, then fail or succeed as planned."""
        self.done += 1
        await self.may_end.wait()
        end = self.ends.pop(0) if self.ends else None
        if end is not None:
            raise end
        return {"done": self.done}


STALE = Refusal(412, "stale_token", "stale")


def run(test: Callable[[], Awaitable[None]]) -> None:
    """Run a test in a loop of its own, ten seconds at most."""
    asyncio.run(asyncio.wait_for(test(), 10))  # type: ignore[arg-type]


def test_a_key_that_is_still_at_work_is_waited_for() -> None:
    """Two requests with one key do the work once and get the same answer, a refusal too."""

    async def test() -> None:
        for end, reply in ((None, (200, {"done": 1})), (Refusal(409, "refused", "no"), (409, REFUSED))):
            answers, work = Answers(), Work(end)
            both = asyncio.gather(*(answers.once("k", "r", work) for _ in range(2)))
            await asyncio.sleep(0)
            work.may_end.set()
            assert await both == [reply, reply] == [await answers.once("k", "r", work), reply] and work.done == 1

    run(test)


REFUSED = {"error": "refused", "message": "no"}


def test_who_waited_for_a_stale_request_acts_itself() -> None:
    """The first was refused for its token: its key is free, and of those who waited one acts for all."""

    async def test() -> None:
        answers, work = Answers(), Work(STALE)
        three = asyncio.gather(*(answers.once("k", "r", work) for _ in range(3)))
        await asyncio.sleep(0)
        work.may_end.set()
        assert [status for status, _ in await three] == [412, 200, 200] and work.done == 2

    run(test)


@pytest.mark.parametrize("status", [412, 428])
def test_a_request_that_stays_stale_ends(status: int) -> None:
    """When every one of them is refused for its token each gets that answer, and the key is not used up."""

    async def test() -> None:
        answers = Answers()
        work = Work(*(Refusal(status, "x", "x") for _ in range(2)))
        work.may_end.set()
        assert [found for found, _ in await asyncio.gather(*(answers.once("k", "r", work) for _ in range(2)))] == [
            status, status,
        ]  # fmt: skip
        assert "k" not in answers and (await answers.once("k", "other", work))[0] == 200

    run(test)


def test_another_request_under_a_key_is_refused() -> None:
    """Also while the first is still at work."""

    async def test() -> None:
        answers, work = Answers(), Work()
        first = asyncio.create_task(answers.once("k", "r", work))
        await asyncio.sleep(0)
        with pytest.raises(Refusal) as caught:
            await answers.once("k", "other", work)
        work.may_end.set()
        assert caught.value.status_code == 422 and (await first)[0] == 200 and work.done == 1

    run(test)


def test_the_last_thousand_keys_are_remembered() -> None:
    """Memory is bounded; without a key every request acts."""

    async def test() -> None:
        answers, work = Answers(), Work()
        work.may_end.set()
        for number in range(MOST_KEYS + 1):
            await answers.once(str(number), "r", work)
        assert "0" not in answers and "1" in answers
        await answers.once(None, "r", work)
        await answers.once(None, "r", work)
        assert work.done == MOST_KEYS + 3

    run(test)


class Desk:
    """The supervisor's admin API in this process; its instances are not started."""

    def __init__(self, folder: Path) -> None:
        layout = Layout(folder, free_base_port())
        layout.token_file.write_text("bearer")
        self.world = Supervisor(layout)
        self.app = supervisor_application(self.world, "bearer")
        self.port, self.server = layout.port, listen(self.app, layout.port)

    @property
    def child(self) -> Child:
        """The instance that the tests are about."""
        return self.world.children["checkout-2"]

    def send(self, method: str, path: str, body: str | None = "{}", key: str = "", token: int = 0) -> Any:
        """Begin a request."""
        headers = {"Authorization": "Bearer bearer"} | ({"Idempotency-Key": key} if key else {})
        headers |= {"Fencing-Token": str(token)} if token else {}
        ask = AsyncHTTPClient().fetch(
            f"http://127.0.0.1:{self.port}{path}", method=method, body=body, headers=headers, raise_error=False
        )
        return asyncio.ensure_future(ask)

    async def known(self, target: str) -> int:
        """Ask for the highest token, twice: whatever could be answered before that was answered."""
        for _ in range(2):
            answer = await self.send("GET", f"/fence/{target}", None)
        return int(json.loads(answer.body)["token"])

    async def noted(self, count: int) -> list[dict[str, Any]]:
        """Wait until so many requests are in the log."""
        while len(found := self.app.settings["log"].to_json()["requests"]) < count:
            await asyncio.sleep(0.001)
        return list(found)


def at_desk(folder: Path, test: Callable[[Desk], Awaitable[None]]) -> None:
    """Run a test with the admin API."""

    async def inside() -> None:
        desk = Desk(folder)
        try:
            await test(desk)
        finally:
            desk.server.stop()
            await desk.world.close()
            await desk.server.close_all_connections()

    run(inside)


@pytest.mark.parametrize("verb", ["stop", "start", "restart"])
def test_what_waits_when_a_higher_token_comes_does_not_act(tmp_path: Path, verb: str) -> None:
    """What stands in the queue is refused when its turn comes; the fence is answered only after that."""

    async def test(desk: Desk) -> None:
        async with desk.child.busy:
            old = desk.send("POST", f"/services/checkout-2/{verb}", key="old", token=1)
            await desk.noted(1)
            fence = desk.send("PUT", "/fence/checkout-2", '{"token": 2}')
            await desk.noted(2)
            assert await desk.known("checkout-2") == 2 and not old.done() and not fence.done()
        answers: list[HTTPResponse] = await asyncio.gather(old, fence)
        assert [answer.code for answer in answers] == [412, 200]
        assert [entry["acted"] for entry in await desk.noted(2)] == [False, False]

    at_desk(tmp_path, test)


def test_what_came_without_a_token_waits_in_vain_too(tmp_path: Path) -> None:
    """It was let in when nobody had a token; when its turn comes somebody has one."""

    async def test(desk: Desk) -> None:
        async with desk.child.busy:
            old = desk.send("POST", "/services/checkout-2/stop")
            await desk.noted(1)
            new = desk.send("POST", "/services/checkout-2/stop", token=1)
            await desk.noted(2)
        assert [answer.code for answer in await asyncio.gather(old, new)] == [428, 200]
        assert [entry["acted"] for entry in await desk.noted(2)] == [False, True]

    at_desk(tmp_path, test)


def test_a_fence_that_is_overtaken_while_it_waits_is_refused(tmp_path: Path) -> None:
    """Who is told that a token holds can rely on it: a higher one came first."""

    async def test(desk: Desk) -> None:
        async with desk.child.busy:
            fences = []
            for token in (1, 2):
                fences.append(desk.send("PUT", "/fence/checkout-2", f'{{"token": {token}}}'))
                await desk.noted(token)
        assert [answer.code for answer in await asyncio.gather(*fences)] == [412, 200]

    at_desk(tmp_path, test)


def test_the_same_key_with_a_newer_token_takes_over(tmp_path: Path) -> None:
    """The older of two equal requests stands in the queue: it does not act, the newer does, and acts once."""

    async def test(desk: Desk) -> None:
        async with desk.child.busy:
            both = []
            for token in (1, 2):
                both.append(desk.send("POST", "/services/checkout-2/stop", key="k", token=token))
                await desk.noted(token)
        assert [answer.code for answer in await asyncio.gather(*both)] == [412, 200]
        assert [entry["acted"] for entry in await desk.noted(2)] == [False, True]

    at_desk(tmp_path, test)


def test_a_roll_under_way_holds_back_the_fence_of_the_deployment(tmp_path: Path) -> None:
    """A deployment that has begun is finished before a newer token for it is confirmed."""

    async def test(desk: Desk) -> None:
        async with desk.child.busy:
            roll = desk.send("PUT", "/deployments/checkout", '{"version": "v2"}', token=1)
            await desk.noted(1)
            fence = desk.send("PUT", "/fence/checkout", '{"token": 2}')
            await desk.noted(2)
            assert await desk.known("checkout") == 2 and not roll.done() and not fence.done()
        assert [answer.code for answer in await asyncio.gather(roll, fence)] == [200, 200]
        assert [entry["acted"] for entry in await desk.noted(2)] == [True, False]
        assert (await desk.send("PUT", "/deployments/checkout", '{"version": "v1"}', token=1)).code == 412

    at_desk(tmp_path, test)
