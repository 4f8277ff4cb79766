"""Python imports this when it starts: every process of a run counts the moments at which it can be killed."""

import crashpoints

crashpoints.install()
