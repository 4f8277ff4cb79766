"""A double of systemctl: it knows the options that rbkit uses, keeps units in a file, and refuses everything else.

Used as `python systemctl.py FOLDER …`. It answers as systemctl(1) documents, with the exit codes of the program's
source. What it is told to do wrong lies in FOLDER/fault.

Source: https://www.freedesktop.org/software/systemd/man/latest/systemctl.html
"""

import json
import os
import sys
from pathlib import Path

PROPERTIES = "LoadState,ActiveState,SubState,MainPID,NRestarts,ExecMainStartTimestamp"


def say(code: int, text: str) -> None:
    """End as systemctl does."""
    print(text, file=sys.stderr)
    sys.exit(code)


def show(world: dict[str, dict[str, str]], units: list[str]) -> None:
    """Print properties, one block for each unit; an unknown unit has a load state, too."""
    if os.environ.get("TZ") != "UTC" or os.environ.get("LC_ALL") != "C":
        say(1, "times would be printed in local words")
    unknown = {"LoadState": "not-found", "ActiveState": "inactive", "SubState": "dead", "MainPID": "0"}
    blocks = []
    for unit in units:
        found = {"NRestarts": "0", "ExecMainStartTimestamp": "", **world.get(unit, unknown)}
        blocks.append("\n".join(f"{name}={found[name]}" for name in PROPERTIES.split(",")))
    print("\n\n".join(blocks))


def change(world: dict[str, dict[str, str]], verb: str, unit: str) -> None:
    """Do a job."""
    if unit not in world:
        say(5, f"Failed to {verb} {unit}: Unit {unit} not found.")
    found = world[unit]
    if found["LoadState"] == "masked" and verb != "stop":
        say(6, f"Failed to {verb} {unit}: Unit {unit} is masked.")
    fails = found.pop("fails", "")
    if verb == "reset-failed" or (verb == "stop" and not fails):
        found.update(ActiveState="inactive", SubState="dead", MainPID="0")
    elif fails:
        found.update(ActiveState="failed", SubState="failed", MainPID="0")
    elif verb == "restart" or found["ActiveState"] != "active":
        start = {"ActiveState": "active", "SubState": "running", "MainPID": str(world["_"]["next"])}
        found.update(start, ExecMainStartTimestamp="Mon 2026-11-23 16:46:31 UTC")
        world["_"]["next"] += 1
    if fails and verb != "stop":
        say(1, f"Job for {unit} failed because the control process exited with error code.")


def main() -> None:
    """Do what the arguments say."""
    folder, *words = sys.argv[1:]
    file = Path(folder) / "units.json"
    world = json.loads(file.read_text())
    fault = Path(folder) / "fault"
    if fault.exists():
        print(json.loads(fault.read_text())["out"])
        sys.exit(json.loads(fault.read_text())["code"])
    if words[:3] == ["--no-pager", "show", f"--property={PROPERTIES}"] and words[3] == "--" and words[4:]:
        return show(world, words[4:])
    verbs = {"start", "stop", "restart", "reset-failed"}
    if words[:2] != ["--no-ask-password", "--no-pager"] or words[2] not in verbs or words[3] != "--" or len(words) != 5:
        say(1, f"systemctl: unrecognized arguments {words}")
    try:
        change(world, words[2], words[4])
    finally:
        file.write_text(json.dumps(world))
    return None


if __name__ == "__main__":
    main()
