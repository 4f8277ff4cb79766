"""Doubles of systems that cannot run everywhere: they speak the documented protocol and refuse what it refuses."""
