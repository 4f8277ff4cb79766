"""The contract is read off the cells, refused with a sentence, and never executed."""

import ast
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rbkit.contract import Cell, Contract, parameter_spec, parse, read_cells, type_text
from rbkit.errors import ContractError
from rbkit.specs import CHECK_WITHIN_S

OPEN = 'run = open_run("leak", version="1", owner="sre", budget="5m", assumes=["two instances"])'
STEP = '''\
@run.step(risk="low", timeout="90s", max_targets=2, approvals=1)
async def drain():
    """Take it out. Undo: put it back. Expect: no requests."""
    await run.use("balancer").drain("a")
    await run.use("balancer").drain("b")
    await run.use(name).drain("c")
    run.use("balancer")
'''


def book(parameters: str = "", more: str = "", opening: str = OPEN, tags: tuple[str, ...] = ()) -> list[Cell]:
    """Build the cells of a runbook."""
    return [
        Cell(0, "markdown", "text\n# Memory leak\n# Second"),
        Cell(1, "code", parameters, ("parameters",)),
        Cell(2, "code", opening, ("contract",)),
        Cell(3, "code", more, tags),
    ]


def read(**given: Any) -> Contract:
    """Read the contract of a runbook."""
    return read_cells(book(**given))


def refusal(**given: Any) -> str:
    """Return the sentence with which a runbook is refused."""
    with pytest.raises(ContractError) as caught:
        read(**given)
    return caught.value.what


def test_everything_is_read_off_the_cells() -> None:
    """Name, title, limits, steps, checks and all names that are used come from the cells alone."""
    checks = (
        "@run.precondition\nasync def spare():\n    '''Enough are left.'''\n    return True\n"
        "@run.postcondition(within='2m')\nasync def back(): return await run.observe('memory')\n"
        "run.decide('rules')\nrun.observe('memory')\nrun.observe(name)\nrun.observe()\n"
    )
    contract = read(parameters="a: int = 1  # Count, pieces", more=STEP + checks)
    assert (contract.name, contract.title, contract.version, contract.owner) == ("leak", "Memory leak", "1", "sre")
    assert (contract.budget_s, contract.assumes) == (300.0, ("two instances",))
    assert (contract.signals, contract.capabilities, contract.rules) == (("memory",), ("balancer",), ("rules",))
    step = contract.step("drain")
    assert step is not None
    assert (step.intent, step.undo, step.expect) == ("Take it out.", "put it back.", "no requests.")
    assert (step.risk, step.timeout_s, step.max_targets, step.approvals) == ("low", 90.0, 2, 1)
    assert (step.calls, step.cell) == (("balancer.drain",), 3)
    assert [(c.name, c.phase, c.sentence, c.within_s) for c in contract.checks] == [
        ("spare", "precondition", "Enough are left.", CHECK_WITHIN_S), ("back", "postcondition", "", 120.0),
    ]  # fmt: skip
    assert contract.step("other") is None
    assert (step.parallel, step.otherwise, step.automatic) == (1, (), False)
    assert (contract.rollback, contract.confirm_within_s) == ("on_failure", 0.0)


def test_how_a_run_is_to_end_is_read_off_the_opening() -> None:
    """When it is rolled back, and whether somebody must confirm it, is a promise like any other."""
    for word in ("on_failure", "always", "never", "ask"):
        assert read(opening=OPEN.replace(")", f', rollback="{word}")')).rollback == word
    assert read(opening=OPEN.replace(")", ', confirm_within="10m")')).confirm_within_s == 600.0


def alternative(name: str, **given: str) -> str:
    """Write a step that stands in for others, or names those that can stand in for it."""
    words = "".join(f", {key}={value}" for key, value in given.items())
    return f'@run.step(timeout="30s"{words})\nasync def {name}():\n    """Do it."""\n'


def test_what_can_stand_in_for_a_step_is_read_off_it() -> None:
    """Its alternatives in their order, whether one of them is made without asking, how much is done at once."""
    steps = alternative("stop", risk='"low"') + alternative("wait")
    steps += alternative("drain", otherwise='["stop", "wait"]', automatic="True", parallel="3")
    step = read(more=steps).step("drain")
    assert step is not None
    assert (step.otherwise, step.automatic, step.parallel) == (("stop", "wait"), True, 3)


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        (alternative("drain", otherwise='["stop"]'), "names 'stop' in otherwise, and no step above"),
        (alternative("stop") + alternative("drain", otherwise='["stop", "stp"]'), "names 'stp' in otherwise"),
        (alternative("drain", otherwise='["stop"]') + alternative("stop"), "and no step above is called so"),
        (
            alternative("wait") + alternative("drain", otherwise='["stop"]') + alternative("stop"),
            "and no step above is called so",
        ),
        (alternative("drain", otherwise='["drain"]'), "the names of other steps"),
        (alternative("drain", otherwise="[1]"), "the names of other steps"),
        (alternative("drain", otherwise='"stop"'), "otherwise in step drain in cell 3 must be list, not str"),
        (alternative("drain", otherwise="names"), "must be a literal"),
        (alternative("drain", automatic="1"), "must be bool, not int"),
        (alternative("drain", parallel="0"), "max_targets and parallel at least 1"),
    ],
)
def test_an_alternative_is_a_step_above(steps: str, said: str) -> None:
    """When a step fails, what stands in for it must have been defined; a slip in its name is noticed before."""
    assert said in refusal(more=steps)


def test_a_fan_out_is_read_off_the_cells() -> None:
    """Its capability is among those that the environment must name, and its action among the step's calls."""
    body = '    return await run.rolling("services.restart", names, max_errors="10%")\n'
    contract = read(more=alternative("restart") + body)
    assert (contract.capabilities, contract.steps[0].calls) == (("services",), ("services.restart",))


@pytest.mark.parametrize("call", ['memory.frame.rolling("5min").mean()', 'frame.rolling("a.b")', "run.rolling()",
                                  "run.rolling(action)", 'run.rolling(action="a.b")'])  # fmt: skip
def test_only_the_runs_own_rolling_is_a_fan_out(call: str) -> None:
    """A rolling mean of pandas needs no capability; what is no literal cannot be read."""
    assert read(more=call).capabilities == ()


@pytest.mark.parametrize("action", ['"restart"', '"services."', '".restart"', '"a.b.c"', "5", '""'])
def test_a_fan_out_names_capability_and_action(action: str) -> None:
    """One without the other is refused before anything is opened."""
    assert "rolling takes capability and action" in refusal(more=f"run.rolling({action}, names)")


def test_a_contract_may_be_bare() -> None:
    """Without title, assumptions, steps and checks the rest still stands."""
    cells = [cell for cell in book(opening=OPEN.replace(', assumes=["two instances"]', "")) if cell.kind == "code"]
    contract = read_cells(iter(cells))
    assert (contract.title, contract.assumes, contract.steps, contract.checks) == ("", (), (), ())


@pytest.mark.parametrize(
    ("line", "kind", "default", "text", "unit"),
    [
        ('a: str = "x#y"  # Which one', "str", "x#y", "Which one", ""),
        ('a: str = "x\x0cy"  # Which one', "str", "x\x0cy", "Which one", ""),
        ('a: str = "é\u2028"  # Which one, really', "str", "é\u2028", "Which one, really", ""),
        ("a: float = -1.5  # Limit (MB).", "float", -1.5, "Limit (MB).", "MB"),
        ("a: float = 1.5  # Limit (MB)", "float", 1.5, "Limit (MB)", "MB"),
        ("a: int = 3  # Wait,   seconds.", "int", 3, "Wait, seconds.", "seconds"),
        ("a: int = 3", "int", 3, "", ""),
        ("a: int | None = None  # Wait, s", "int | None", None, "Wait, s", "s"),
        ("a: list[str] = [\n  'x',  # inner\n]  # Which", "list[str]", ["x"], "Which", ""),
        ("a: dict[str, int] = {'x': 1}  # Which, each", "dict[str, int]", {"x": 1}, "Which, each", ""),
        ("a: \"Literal['x', 2, True]\" = 2  # Which", "Literal['x', 2, True]", 2, "Which", ""),
        ("a: \"Literal['x']\" = 'x'  # Which", "Literal['x']", "x", "Which", ""),
        ("a: bool = True\r\n", "bool", True, "", ""),
        ("a: 'int | None' = 3  # Wait (s)", "int | None", 3, "Wait (s)", "s"),
    ],
)
def test_a_parameter_is_read(line: str, kind: str, default: Any, text: str, unit: str) -> None:
    """Type, default, meaning and unit are those of the line."""
    [spec] = read(parameters=line).parameters
    assert (spec.type, spec.default, spec.help, spec.unit, spec.required) == (kind, default, text, unit, False)


@pytest.mark.parametrize("kind", [" | ".join(["int"] * 30_000), "list[" * 3_000 + "int" + "]" * 3_000])
def test_a_quoted_type_without_end_is_refused(kind: str) -> None:
    """Whatever stands in the quotes, it is refused as a type and breaks nothing."""
    line = f'a: "{kind}" = 1'
    with pytest.raises(ContractError, match="in quotes is none"):
        parameter_spec(ast.parse(line).body[0], Cell(0, "code", line))


def test_a_parameter_without_a_default_is_required() -> None:
    """`name: type` says that a value must be given."""
    spec = parameter_spec(ast.parse("a: str  # Which").body[0], Cell(0, "code", "a: str  # Which"))
    assert (spec.required, spec.default, spec.help) == (True, None, "Which")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("a = 1", "something else than"), ("print(1)", "something else than"), ("a.b: int = 1", "something else than"),
        ("match: int = 1", "no good name"), ("_a: int = 1", "no good name"), ("run: int = 1", "no good name"),
        ("a: int = b", "must be a literal"), ("a: str = f'{1}'", "must be a literal"), ("a: str = b'x'",
        "JSON can hold"),
        ("a: float = 1e999", "JSON can hold"), ("a: float = {1, 2}", "JSON can hold"), ("a: int = 1+2j",
        "JSON can hold"),
        ("a: dict[str, int] = {'a': 1, 1: 1}", "JSON can hold"), ("a: dict[str, int] = {[]: 1}", "must be a literal"),
        ("a: bytes = 1", "type of a parameter"), ("a: 'x y' = 1", "in quotes is none"), ("a: x.y[int] = 1",
        "type of a"),
        ("a: int & str = 1", "type of a parameter"), ("a: list[a, b] = []", "type of a parameter"),
        ("a: set[int] = []", "set[…]"), ("a: dict[int, int] = {}", "dict[…]"), ("a: dict[str] = {}", "dict[…]"),
        ("a: dict['str', int] = {}", "dict[…]"), ("a: \"Literal[()]\" = 1", "Literal[…]"), ("a: \"Literal[b]\" = 1",
        "Literal[…]"),
        ("a: \"Literal[1.5]\" = 1", "Literal[…]"), ("a: \"Literal[1, b'x']\" = 1", "Literal[…]"),
        ("a: Literal['x'] = 'x'", "does not know `Literal`"), ("a: list[Literal['x']] = []", "does not know `Literal`"),
        ("a: int = 1\na: int = 2", "two parameters named a"), (r"a: str = '\ud800'", "broken character"),
    ],
)  # fmt: skip
def test_a_parameter_that_is_no_plain_literal_is_refused(line: str, said: str) -> None:
    """Whatever would have to be computed, or cannot be kept as JSON, is refused with its place."""
    assert said in refusal(parameters=line)


@pytest.mark.parametrize(
    ("opening", "said"),
    [
        ("", "called 0 times"), (f"{OPEN}\n{OPEN}", "called 2 times"), ("open_run()", "only positional"),
        ("open_run('a', 'b')", "only positional"), ("open_run(*a)", "must be a literal"), ("open_run(name)",
        "must be a literal"),
        ("open_run(1)", "must be str, not int"), ("open_run('a', **b)", "unknown argument **"),
        ("open_run('a', colour='b')", "unknown argument colour"), ("open_run('a')", "budget, owner, version"),
        ("open_run('a', version=1)", "must be str"), (OPEN.replace('"5m"', '"soon"'), "no duration"),
        (OPEN.replace('"5m"', '"0s"'), "above zero"), (OPEN.replace('["two instances"]', "[1]"), "list of sentences"),
        (OPEN.replace('"leak"', r'"\ud800"'), "broken character"),
        (OPEN.replace(")", ', rollback="sometimes")'), "one of on_failure, always, never, ask, not 'sometimes'"),
        (OPEN.replace(")", ", rollback=True)"), "must be str, not bool"),
        (OPEN.replace(")", ', confirm_within="soon")'), "no duration"),
        (OPEN.replace(")", ', confirm_within="0s")'), "above zero"),
    ],
)  # fmt: skip
def test_an_opening_that_says_too_little_is_refused(opening: str, said: str) -> None:
    """The run is opened once, with literals, and says version, owner and budget."""
    assert said in refusal(opening=opening)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (STEP + STEP, "two steps named drain"), (STEP.replace("async ", ""), "must be `async def`"),
        ("@run.step\nclass A: pass", "must be `async def`"),
        ("@run.precondition\nasync def f(): pass\n@run.postcondition\nasync def f(): pass", "two checks named f"),
        (STEP.replace('"low"', '"huge"'), "risk is low"), (STEP.replace("max_targets=2", "max_targets=0"),
        "at least 1"),
        (STEP.replace("approvals=1", "approvals=-1"), "approvals at least 0"), (STEP.replace('"90s"', '"soon"'),
        "duration"),
        (STEP.replace("max_targets=2", "max_targets=True"), "must be int, not bool"),
        (STEP.replace('"90s"', "limit"), "must be a literal"), (STEP.replace('risk="low"', "**more"),
        "unknown argument **"),
        ("@run.precondition(within=5)\nasync def f(): pass", "must be str"), ("a b", "is not plain Python"),
        ("%ls", "is not plain Python"), ("\x00", "Cell 3"), ("\ud800", "cannot be parsed"),
        ("a" + ".b" * 50_000, "cannot be parsed"), ("run.observe('\\ud800')", "broken character"),
    ],
    ids=count(),
)  # fmt: skip
def test_cells_that_contradict_themselves_are_refused(more: str, said: str) -> None:
    """Doubled names, wrong limits and anything but plain Python are refused."""
    assert said in refusal(more=more)


def test_only_the_runs_own_marks_are_read() -> None:
    """Other decorators, and functions without any, are the notebook's own affair."""
    more = "@functools.cache\ndef f(): pass\n@mark\ndef g(): pass\n@mark()\nasync def h(): pass\ndef i(): pass"
    assert read(more=more).steps == ()


@pytest.mark.parametrize(("cells", "count"), [(book()[2:], 0), (book(tags=("parameters",)), 2)])
def test_there_is_one_parameters_cell(cells: list[Cell], count: int) -> None:
    """None or two cells tagged parameters are refused."""
    with pytest.raises(ContractError, match=f"here are {count}"):
        read_cells(cells)


def test_the_digest_is_that_of_the_code_and_its_tags() -> None:
    """A changed cell or tag changes the digest; text and injected values do not."""
    plain = read(parameters="a: int = 1")
    injected = read(parameters="a: int = 1", more="# Parameters\na = 7\n", tags=("injected-parameters",))
    without = read_cells(book(parameters="a: int = 1")[:3])
    prose = read_cells([Cell(0, "markdown", "# Other"), *book(parameters="a: int = 1")[1:]])
    assert injected.digest == without.digest
    assert prose.digest == plain.digest
    changed = [read(parameters="a: int = 2"), read(parameters="a: int = 1", tags=("step",)), without]
    assert len({plain.digest, *(contract.digest for contract in changed)}) == 4


@pytest.mark.parametrize(
    "code",
    [
        "import os",
        "a = b = 1",
        "b = 1",
        "a.b = 1",
        "a: int = 1",
        "a = open('x')",
        "a = 1\nprint(1)",
        "a = [x for x in ()]",
    ],
)
def test_an_injected_cell_holds_values_only(code: str) -> None:
    """Nothing hides from the digest in the one cell that it leaves out."""
    with pytest.raises(ContractError, match="injected-parameters|must be a literal"):
        read(parameters="a: int = 1", more=code, tags=("injected-parameters",))


def test_a_cell_that_is_too_deep_for_the_reader_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Running out of depth while reading is a refusal, not a crash."""

    def deep(*args: Any) -> None:
        raise RecursionError

    monkeypatch.setattr("rbkit.contract._title", deep)
    assert "nested too deeply" in refusal()


def test_the_small_readers() -> None:
    """A type has one spelling, a cell is parsed without warnings."""
    assert type_text(ast.parse("list[int|None]", mode="eval").body, "x") == "list[int | None]"
    assert len(parse("'\\d'; 1 is 1", "x").body) == 2


def test_a_long_comment_is_read_soon() -> None:
    """No comment makes the search for its unit run for long."""
    [spec] = read(parameters="a: int = 1  #" + " , x y" * 30_000 + " " * 100_000 + ".").parameters
    assert spec.unit == "x y"


PIECES = (
    "run . ( ) = : , @ [ ] { } \n \t ' \" # % * ** := f' async def await for lambda class import match case return "
    "step use observe decide rolling otherwise open_run precondition 'x' 1e999 \ud800 é \u2028 int str list dict | "
    "None Literal"
)
WORDS = st.sampled_from(PIECES.split(" "))
TEXT = st.text() | st.lists(WORDS, max_size=25).map(" ".join)
TAGS = st.lists(st.sampled_from(["parameters", "injected-parameters", "step", "x"]), max_size=2).map(tuple)


@settings(max_examples=300, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(parameters=TEXT, opening=TEXT, more=TEXT, tags=TAGS, whole=st.booleans())
def test_any_text_gives_a_contract_or_a_refusal(
    parameters: str, opening: str, more: str, tags: tuple[str, ...], whole: bool
) -> None:
    """Whatever cells hold, there is a contract that can be written down, or a ContractError."""
    try:
        contract = read(parameters=parameters, opening=OPEN if whole else opening, more=more, tags=tags)
    except ContractError as error:
        assert error.exit_code == 2
    else:
        assert Contract.model_validate_json(contract.model_dump_json()) == contract


@pytest.mark.parametrize(
    "code",
    ["open({flag!r}, 'w')", "x: open({flag!r}, 'w') = 1", "x: int = open({flag!r}, 'w')",
     "def f(x=open({flag!r}, 'w')): pass",
     "class A(metaclass=open({flag!r}, 'w')): pass", "@run.step(timeout=open({flag!r}, 'w'))\nasync def f(): pass"],
)  # fmt: skip
@pytest.mark.parametrize("place", ["parameters", "opening", "more"])
def test_nothing_is_executed(tmp_path: Path, code: str, place: str) -> None:
    """Code that would touch a file touches none, in whichever cell it stands."""
    flag = tmp_path / "flag"
    text = code.format(flag=str(flag)) + (f"\n{OPEN}" if place == "opening" else "")
    try:
        read(**{place: text})
    except ContractError as error:
        assert error.what
    assert not flag.exists()
