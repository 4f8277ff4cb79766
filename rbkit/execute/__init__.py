"""Runs a notebook headlessly, as a papermill engine, and keeps watch over it."""

import sys

# Before anything imports jsonschema (nbclient does, through nbformat): see docs/adr/0005, it costs 1.4 s.
sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
