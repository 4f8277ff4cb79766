"""Runs a notebook headlessly, as a papermill engine, and keeps watch over it."""
