"""The example of a plugin is installed as any plugin is, and keeps what every keeper of flags promises."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from rbkit.environment import Environment
from rbkit.errors import BadAnswer, MayHaveActed, NotFound, Refused, SettingsError, Unreachable
from rbkit.kinds import FeatureFlags
from rbkit.wiring import Wiring

from .test_feature_flags import (
    FLAGS,
    call,
    test_an_unknown_flag_is_not_found,
    test_put_comes_true_and_goes_back,
    test_the_same_value_twice_is_once,
)

__all__ = [
    "test_an_unknown_flag_is_not_found", "test_put_comes_true_and_goes_back", "test_the_same_value_twice_is_once",
]  # fmt: skip
EXAMPLE = Path(__file__).parents[2] / "examples" / "rbkit-file-flags"
Use = Callable[[Callable[[FeatureFlags], Awaitable[Any]]], Any]


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Install the example into a folder of its own, and let Python look there."""
    folder = tmp_path_factory.mktemp("plugin")
    options = ["--no-deps", "--no-build-isolation", "--offline", "--python", sys.executable, "--target", str(folder)]
    uv = Path(sys.executable).parent / "uv"
    subprocess.run([uv, "pip", "install", *options, EXAMPLE], check=True, capture_output=True)
    sys.path.append(str(folder))
    yield folder
    sys.path.remove(str(folder))
    sys.modules.pop("rbkit_file_flags", None)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file with flags."""
    (tmp_path / "flags.json").write_text(json.dumps(FLAGS))
    return tmp_path / "flags.json"


@pytest.fixture
def use(plugin: Path, file: Path) -> Use:
    """Run a coroutine with the plugin, named by an environment file."""
    environment = Environment.model_validate(
        {"name": "test", "capabilities": {"flags": {"adapter": "file-flags", "path": str(file)}}}
    )

    async def closed(work: Any) -> Any:
        world = Wiring(environment)
        try:
            return await work(world.capability("flags"))
        finally:
            await world.aclose()

    return lambda work: asyncio.run(closed(work))


def test_an_older_holder_is_refused(use: Use) -> None:
    """The plugin remembers tokens, so that a process that woke up too late changes nothing."""
    use(lambda f: f.fence("limit", 7))
    with pytest.raises(Refused, match="its token is 7, not 6"):
        use(lambda f: f.apply(call("limit", 1), uuid4().hex, 6))
    use(lambda f: f.apply(call("limit", 1), uuid4().hex, 7))
    assert use(lambda f: f.state("limit")) == {"value": 1}


def test_a_file_that_is_none_is_told(use: Use, file: Path) -> None:
    """Missing, no JSON, no object: each is one of rbkit's errors."""
    for text, kind in (("[]", BadAnswer), ("{", BadAnswer), (None, Unreachable)):
        file.unlink() if text is None else file.write_text(text)
        with pytest.raises(kind):
            use(lambda f: f.state("limit"))


def test_what_cannot_be_written_is_told(use: Use, file: Path) -> None:
    """Whether it may have acted is told apart."""
    file.with_suffix(".tokens").mkdir()
    with pytest.raises((Unreachable, Refused, MayHaveActed)):
        use(lambda f: f.apply(call("limit", 1), uuid4().hex, 1))
    assert use(lambda f: f.state("limit")) == {"value": 10}


def test_ping_says_what_may_be_done(use: Use, file: Path) -> None:
    """For `rbkit env check`."""
    assert use(lambda f: f.ping()) == f"{len(FLAGS)} flag(s) in {file}, read and write"


def test_a_wrong_option_is_named(plugin: Path) -> None:
    """The environment file's slip is told before anything is made."""
    wrong = {"name": "test", "capabilities": {"flags": {"adapter": "file-flags", "file": "x"}}}
    with pytest.raises(SettingsError, match="file-flags"):
        Wiring(Environment.model_validate(wrong)).capability("flags")
    with pytest.raises(NotFound, match="Did you mean 'file-flags'"):
        Wiring(Environment.model_validate({"name": "t", "capabilities": {"f": {"adapter": "file-flag"}}})).capability(
            "f"
        )
