"""One file per real system, and the fakes that pass the same suites."""
