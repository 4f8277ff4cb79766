"""Environment variables and environment files: every fault is named by line and key."""

from pathlib import Path

import pytest

from rbkit import settings as module
from rbkit.envfile import load_environment
from rbkit.environment import Environment
from rbkit.errors import NotFound, SettingsError
from rbkit.settings import Settings

GOOD = """\
name: test
banner: "Home is ${RBKIT_HOME}, ${RBKIT_ZONE:-nowhere}"
sources:
  metrics:
    {adapter: prometheus, url: "http://${RBKIT_HOST:-localhost}:9090", retries: 0x10, ratio: 1.5, on: true, none: }
signals:
  memory:
    source: metrics
    query: memory{service=$service}
    stale_after: 10s
  errors:
    source: metrics
    where: {service: $service, level: error}
capabilities:
  balancer:
    adapter: fake
    members:
      - a
      - ${RBKIT_HOST:-b}
approvals: {low: 0, high: 2}
"""


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch):
    """Let no variable of whoever runs the tests get in."""
    for name in Settings.model_fields:
        monkeypatch.delenv(f"RBKIT_{name.upper()}", raising=False)


def load(folder: Path, text: str | bytes, **variables: str) -> Environment:
    """Write an environment file and read it."""
    (folder / "test.yaml").write_bytes(text.encode() if isinstance(text, str) else text)
    return load_environment("test", folder, {"RBKIT_HOME": "/home"} | variables)


def test_an_environment_file_is_read(tmp_path):
    """Sources, signals, capabilities and approvals by name, each adapter with its own options as plain values."""
    found = load(tmp_path, GOOD)
    assert found.banner == "Home is /home, nowhere"
    assert found.source("metrics").options == {
        "url": "http://localhost:9090", "retries": 16, "ratio": 1.5, "on": True, "none": None,
    }  # fmt: skip
    assert [type(value) for value in found.source("metrics").options.values()] == [str, int, float, bool, type(None)]
    assert found.signal("memory").stale_after == "10s"
    assert found.signal("errors").where == {"service": "$service", "level": "error"}
    assert found.capability("balancer").options == {"members": ["a", "b"]}
    assert found.approvals == {"low": 0, "high": 2}


def test_the_shipped_environment_files_are_good():
    """What lies in `parameters/` can be read as it is."""
    folder = Path(__file__).parents[1] / "parameters"
    names = {path.stem for path in folder.glob("*.yaml")} - {"_base"}
    assert names == {"sandbox", "test", "staging", "production"}
    for name in names:
        assert load_environment(name, folder, {"RBKIT_HOME": "/home"}).name == name


def test_who_must_approve_is_read(tmp_path):
    """Without a word: anybody but who started the run, ten minutes each; all of it can be said."""
    bare = load(tmp_path, "name: test")
    assert (bare.approvals, bare.approvers, bare.own_approval) == ({}, ["*"], False)
    assert (bare.approval_wait, bare.approval_valid) == ("10m", "10m")
    text = "name: test\napprovals: {irreversible: 2}\napprovers: ['os:a*', os:bob]\nown_approval: true\n"
    full = load(tmp_path, text + "approval_wait: 30m\napproval_valid: 90s")
    assert (full.approvals, full.approvers, full.own_approval) == ({"irreversible": 2}, ["os:a*", "os:bob"], True)
    assert (full.approval_wait, full.approval_valid) == ("30m", "90s")
    assert full.digest != bare.digest


def test_the_digest_is_of_what_was_read(tmp_path):
    """Another variable is another environment; another comment is not."""
    first = load(tmp_path, GOOD)
    assert load(tmp_path, GOOD + "# more\n").digest == first.digest
    assert load(tmp_path, GOOD, RBKIT_HOST="prod").digest != first.digest


@pytest.mark.parametrize(
    ("word", "ask"),
    [("signal", Environment.signal), ("source", Environment.source), ("capability", Environment.capability)],
)
def test_a_name_that_is_not_there_is_refused_with_what_is(tmp_path, word, ask):
    """The nearest name is suggested and all are listed; an empty section says none."""
    with pytest.raises(NotFound, match=f"Environment test names no {word} 'metricz'") as caught:
        ask(load(tmp_path, GOOD), "metricz")
    assert "parameters/test.yaml" in caught.value.todo
    with pytest.raises(NotFound) as caught:
        ask(load(tmp_path, "name: test"), "x")
    assert caught.value.todo.endswith("one of: none.")


BAD = [
    ("name: test\nbaner: x", 2, "baner: Extra inputs are not permitted"),
    ("banner: x", 1, "name: Field required"),
    ("name: other", 1, "name: is 'other'; it must be 'test', like the file"),
    ("name: test\n\nsources:\n  m: {url: x}", 4, "sources.m.adapter: Field required"),
    ("name: test\nsources: {m: {adapter: 3}}", 2, "sources.m.adapter: Input should be a valid string"),
    ("name: test\nsignals:\n  a:\n    source: m\n    qery: x", 5, "signals.a.qery: Extra inputs"),
    ("name: test\nsignals:\n  a:\n    source: m\n    where:\n      x: 1", 6, "signals.a.where.x: Input should be"),
    (
        "name: test\nsignals:\n  a:\n    source: m\n    step: soon",
        5,
        "signals.a.step: 'soon' is no duration",
    ),
    (
        "name: test\nsignals:\n  a:\n    source: m\n    stale_after: 0s",
        5,
        "signals.a.stale_after: A duration",
    ),
    ("name: test\nsignals:\n  a:\n    source: m\n    max_rows: 0", 5, "signals.a.max_rows: Input should be greater"),
    ("name: test\nsignals: [a]", 2, "signals: Input should be a valid dictionary"),
    ("name: test\napprovals:\n  critical: 1", 3, "approvals.critical"),
    ("name: test\napprovals:\n  low: 0\n  high: -1", 4, "approvals.high: Input should be greater than or equal to 0"),
    ("name: test\napprovals:\n  irreversible: -1", 3, "approvals.irreversible: Input should be greater than or equal"),
    ("name: test\napprovals:\n  high: yes", 3, "approvals.high: Input should be a valid integer"),
    ("name: test\napprovers: os:alice", 2, "approvers: Input should be a valid list"),
    ("name: test\napprovers: []", 2, "approvers: List should have at least 1 item"),
    ("name: test\napprovers:\n  - os:alice\n  - 7", 4, "approvers.1: Input should be a valid string"),
    ("name: test\nown_approval: perhaps", 2, "own_approval: Input should be a valid boolean"),
    ("name: test\napproval_wait: soon", 2, "approval_wait: 'soon' is no duration"),
    ("name: test\n\napproval_valid: 0s", 3, "approval_valid: A duration must be above zero"),
    ("name: test\napproval_waits: 5m", 2, "approval_waits: Extra inputs are not permitted"),
    ("name: test\nbanner: ${RBKIT_NOPE}", 2, "banner: needs the variable RBKIT_NOPE, which is not set"),
    (
        "name: test\nsources:\n  m:\n    adapter: a\n    x:\n      - ok\n      - ${RBKIT_NOPE}",
        7,
        "sources.m.x.1: needs the",
    ),
    (
        "name: test\nsources: {m: {adapter: a,\n  x: .nan}}",
        3,
        "sources.m.x: is no text, finite number, list or mapping",
    ),
    ("name: test\nsources: {m: {adapter: a,\n  x: 1e999}}", 3, "sources.m.x: is no text"),
    ("name: test\nsources:\n  m: {adapter: a, x: 2026-01-01}", 3, "sources.m.x: is no text"),
    ("name: test\nsources:\n  m: {adapter: a, x: !!binary aGk=}", 3, "sources.m.x: is no text"),
    ("name: test\nsources:\n  m: {adapter: a, x: !mine y}", 3, "sources.m.x: is no text"),
    ("name: test\nsources:\n  m: {adapter: a, x: !!python/name:os.system }", 3, "sources.m.x: is no text"),
    ("name: test\nsources: !!set {a}", 2, "sources: is no text"),
    ("name: test\n1: x", 2, "1: is no text, as a key must be"),
    ("name: test\nsources:\n  m: {adapter: a, null: 2}", 3, "sources.m.None: is no text, as a key must be"),
    ("name: test\nsources: &a\n  m: {adapter: x}\nsignals: *a", 4, "*a: aliases are not read"),
    ("name: test\nsources: &a\n  m: {adapter: a, x: *a}", 3, "*a: aliases are not read"),
    ("name: test\nsources:\n  a: &b {adapter: x}\n  c:\n    <<: *b", 5, "*b: aliases are not read"),
]


@pytest.mark.parametrize(("text", "line", "what"), BAD, ids=[what[:40] for _, _, what in BAD])
def test_a_fault_is_named_by_line_and_key(tmp_path, text, line, what):
    """Whatever is wrong with a key, the error gives file, line and key; nothing unknown is passed over."""
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, text)
    assert caught.value.what.startswith(f"{tmp_path / 'test.yaml'}, line {line}: {what}")


def test_a_few_lines_that_unfold_without_end_are_refused(tmp_path):
    """Aliases of aliases, which would unfold into a thousand million values, cost nothing."""
    rows = ["name: test", "a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    with pytest.raises(SettingsError, match=r"line 3: \*a0: aliases are not read"):
        load(tmp_path, "\n".join(rows))


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("a: [", "is not good YAML"),
        ("name: test\nname: test", "is not good YAML: while constructing a mapping .*line 1.*duplicate key"),
        (b"\xff\xfe", "is not good YAML"),
        ("name: test\n\nx: " + "[" * 500_000, "line 3: it is nested deeper than 50 levels"),
        ("name: a\x00b", "is not good YAML"),
        ("a\n---\nb", "is not good YAML"),
        ("", "must hold a mapping"),
        ("- a", "must hold a mapping"),
        ("text", "must hold a mapping"),
        ("#" * 1_000_001, "is larger than 1 MB"),
    ],
    ids=["cut", "twice", "bytes", "deep", "nul", "two documents", "empty", "list", "text", "large"],
)
def test_a_file_that_is_no_environment_is_refused(tmp_path, text, what):
    """What cannot be read at all is named by its file, and by the line where YAML knows one."""
    with pytest.raises(SettingsError, match=what) as caught:
        load(tmp_path, text)
    assert str(tmp_path / "test.yaml") in caught.value.what


def test_a_file_that_cannot_be_opened_is_refused(tmp_path):
    """A folder or a dangling link of that name is one sentence, not a traceback."""
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "link.yaml").symlink_to(tmp_path / "nowhere")
    for name, why in {"folder": "Is a directory", "link": "No such file"}.items():
        with pytest.raises(SettingsError, match=f"{name}.yaml cannot be read: {why}"):
            load_environment(name, tmp_path, {})


@pytest.mark.parametrize("name", ["prod", "../test", "test.yaml", "", "te st", "a" * 5000, "test\n"])
def test_an_environment_that_is_not_there_is_refused_with_what_is(tmp_path, name):
    """A name never leads out of the folder, and the error stays short."""
    (tmp_path / "test.yaml").write_text("name: test")
    with pytest.raises(NotFound, match="There is no environment") as caught:
        load_environment(name, tmp_path, {})
    assert "Use one of: test;" in caught.value.todo
    assert len(caught.value.what) < 300
    with pytest.raises(NotFound) as caught:
        load_environment(name, tmp_path / "none", {})
    assert "Use one of: none;" in caught.value.todo


def test_only_rbkits_own_variables_are_put_in(tmp_path):
    """Other variables, shell syntax and a variable's own text are left as they stand."""
    text = "name: test\nbanner: '$HOME ${HOME} $(id) ${RBKIT_A} ${rbkit_a:-x}'"
    assert (
        load(tmp_path, text, HOME="/root", RBKIT_A="${RBKIT_B}").banner
        == "$HOME ${HOME} $(id) ${RBKIT_B} ${rbkit_a:-x}"
    )


def test_the_variables_are_read_and_what_is_given_wins(monkeypatch, tmp_path):
    """RBKIT_HOME and the others set what is not given; None means not given."""
    monkeypatch.setenv("RBKIT_HOME", "/from/variable")
    monkeypatch.setenv("RBKIT_MODE", "dry_run")
    read = Settings.read(mode=None, actor="os:me")
    assert (str(read.home), read.mode, read.actor) == ("/from/variable", "dry_run", "os:me")
    assert Settings.read(home=tmp_path).home == tmp_path
    monkeypatch.delenv("RBKIT_HOME")
    assert Settings.read().home.name == "rbkit"


@pytest.mark.parametrize(
    ("name", "value", "what"),
    [
        ("MODE", "fast", "Input should be"), ("DRIVER", "me", "Input should be"), ("MODE", "", "Input should be"),
        ("SESSION", "0", "Input should be greater than or equal to 1"), ("SESSION", "x", "Input should be a valid int"),
        ("LEASE", "0.5s", "Value error, '0.5s' is shorter than 1 s"), ("LEASE", "soon", "Value error, 'soon' is no"),
        ("LEASE", "", "Value error, '' is no duration"),
    ],
)  # fmt: skip
def test_a_variable_that_cannot_be_used_is_named(monkeypatch, name, value, what):
    """A wrong value is refused with the variable's name."""
    monkeypatch.setenv(f"RBKIT_{name}", value)
    with pytest.raises(SettingsError, match=f"RBKIT_{name}: {what}"):
        Settings.read()


def test_a_lease_lasts_a_second_or_longer(monkeypatch):
    """Fifteen seconds unless RBKIT_LEASE says otherwise; a shorter one than a second could not be kept alive."""
    assert Settings.read().lease_s == 15.0
    monkeypatch.setenv("RBKIT_LEASE", "1s")
    assert Settings.read().lease_s == 1.0
    assert Settings.read(lease="1m30s").lease_s == 90.0


def test_a_kernel_is_told_its_session_and_its_holder(monkeypatch):
    """Without a supervisor it is the first session, and it holds its targets in its own name."""
    assert (Settings.read().session, Settings.read().holder) == (1, "")
    monkeypatch.setenv("RBKIT_SESSION", "7")
    monkeypatch.setenv("RBKIT_HOLDER", "run/host/1/abc")
    assert (Settings.read().session, Settings.read().holder) == (7, "run/host/1/abc")


def test_a_folder_is_as_set_or_above_or_here(monkeypatch, tmp_path):
    """The folder that is set; else the nearest one at or above the working folder; else the one that would be here."""
    inner = tmp_path / "notebooks" / "deep"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    assert Settings.read().folder("notebooks") == tmp_path / "notebooks"
    assert Settings.read().folder("parameters") == inner / "parameters"
    monkeypatch.setenv("RBKIT_PARAMETERS", str(tmp_path))
    assert Settings.read().folder("parameters") == tmp_path


def test_the_home_in_use_is_what_the_file_gets(monkeypatch, tmp_path):
    """`${RBKIT_HOME}` in a file is the home that these settings use, also when the variable says another or nothing."""
    (tmp_path / "test.yaml").write_text("name: test\nbanner: ${RBKIT_HOME} ${RBKIT_ZONE}")
    monkeypatch.setenv("RBKIT_ZONE", "eu")
    assert Settings.read(parameters=tmp_path, home=Path("/mine")).environment("test").banner == "/mine eu"


def test_every_setting_is_described():
    """The docstring names each variable."""
    for name in module.Settings.model_fields:
        assert f"RBKIT_{name.upper()}" in (module.Settings.__doc__ or "")


BASE = """\
banner: "All of them"
sources:
  metrics: {adapter: prometheus, url: "http://base", limits: {concurrency: 2, timeout: 5s}}
signals:
  memory: {source: metrics, query: up, unit: MB}
  errors: {source: metrics, query: down, otherwise: memory, essential: false}
approvals: {low: 0, high: 2}
"""
CHILD = """\
name: test
extends: _base
sources:
  metrics: {url: "http://child"}
signals:
  errors:
approvals: {high: 1}
"""


def extended(folder: Path, child: str = CHILD, base: str = BASE) -> Environment:
    """Write a base and an environment that extends it, and read that."""
    (folder / "_base.yaml").write_text(base)
    return load(folder, child)


def test_what_a_file_does_not_say_is_taken_from_its_base(tmp_path):
    """Mappings are put over each other key by key, everything else as a whole; null takes a key away."""
    found = extended(tmp_path)
    assert (found.banner, found.approvals) == ("All of them", {"low": 0, "high": 1})
    assert found.source("metrics").options == {"url": "http://child"}
    assert (found.limits("source metrics").concurrency, found.limits("source metrics").seconds) == (2, 5.0)
    assert list(found.signals) == ["memory"]
    assert found.digest != extended(tmp_path, base=BASE.replace("http://base", "http://b").replace("MB", "GB")).digest


@pytest.mark.parametrize(
    ("child", "base", "where"),
    [
        (CHILD, BASE.replace("low: 0", "low: -1"), "_base.yaml, line 7: approvals.low"),
        (CHILD.replace("high: 1", "high: x"), BASE, "test.yaml, line 7: approvals.high"),
        (CHILD, BASE + "odd: 1\n", "_base.yaml, line 8: odd"),
        (CHILD, "name: base\n" + BASE, "_base.yaml, line 1: name: a base is a mapping without `name` and `extends`"),
        (CHILD, "- 1\n", "_base.yaml, line 1: name: a base is a mapping"),
        (CHILD.replace("_base", "_bse"), BASE, "test.yaml, line 2: extends: there is no _bse.yaml"),
        (CHILD.replace("_base", "base"), BASE, "test.yaml, line 2: extends: there is no base.yaml"),
        (CHILD.replace("_base", "../_base"), BASE, "test.yaml, line 2: extends"),
        (CHILD + "slos:\n  s: {signal: memori, below: 1, objective: 0.9}\n", BASE, "test.yaml, line 9: slos.s.signal"),
        (CHILD, BASE.replace("MB", "MB, otherwise: no"), "_base.yaml, line 5: signals.memory.otherwise: 'no' is not"),
    ],
)  # fmt: skip
def test_a_fault_is_named_in_the_file_that_holds_it(tmp_path, child, base, where):
    """With its line there: a base is read by many, and whoever reads the error must not search."""
    with pytest.raises(SettingsError) as caught:
        extended(tmp_path, child, base)
    assert where in caught.value.what


def test_a_base_is_no_environment(tmp_path):
    """What only others extend can neither be used nor is it suggested."""
    extended(tmp_path)
    with pytest.raises(NotFound) as caught:
        load_environment("_base", tmp_path, {})
    assert caught.value.todo.startswith("Use one of: test;")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("token: hunter2", "token must be a reference"),
        ("auth: {client_secret: hunter2}", "auth.client_secret must be a reference"),
        ("url: 'postgresql://app:hunter2@db/x'", "url holds a password"),
        ("logins: [{password: hunter2}]", "logins.0.password must be a reference"),
    ],
)
def test_a_secret_in_clear_is_refused_without_being_repeated(tmp_path, options, said):
    """Only references may stand where a secret belongs, however deep, and the error does not show what stood there."""
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, f"name: test\nsources:\n  a: {{adapter: x, {options}}}\n")
    assert said in caught.value.what and "line 3: sources.a" in caught.value.what
    assert "hunter2" not in str(caught.value) + repr(caught.value.__cause__)


def test_references_stand_where_secrets_belong(tmp_path):
    """A reference is no secret, and a login without a password is none."""
    text = "name: test\nsources:\n  a: {adapter: x, token: env:A, url: 'postgresql://app@db/x', n: [1]}\n"
    assert load(tmp_path, text).source("a").options["token"] == "env:A"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("slos: {s: {signal: m, objective: 0.9}}", "give exactly one of `below` and `above`"),
        ("slos: {s: {signal: m, below: 1, above: 2, objective: 0.9}}", "give exactly one"),
        ("slos: {s: {signal: m, below: 1, objective: 1.0}}", "slos.s.objective"),
        ("notifications: {pager: {to: 'https://x/key'}}", "to must be a reference"),
        ("partial_evidence: {low: perhaps}", "partial_evidence.low"),
        ("vault: {url: 'http://v', secret_id: hunter2}", "secret_id must be a reference"),
    ],
)
def test_promises_routes_and_policies_are_checked(tmp_path, text, said):
    """What is wrong in them is told when the file is read, not in the night."""
    with pytest.raises(SettingsError, match=said):
        load(tmp_path, f"name: test\n{text}\n")


def test_the_limits_of_an_endpoint_that_is_not_named_are_the_usual_ones(tmp_path):
    """Also of a capability that a test puts in place."""
    found = extended(tmp_path)
    assert found.limits("capability nothing").concurrency == 4 == found.limits("source nothing").concurrency
