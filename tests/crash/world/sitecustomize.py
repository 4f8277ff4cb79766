"""Python imports this when it starts: every process of a run counts the moments at which it can be killed."""

import sys

import crashpoints

sys.modules["debugpy"] = None  # no debugger: a kernel starts a good deal faster without

crashpoints.install()
