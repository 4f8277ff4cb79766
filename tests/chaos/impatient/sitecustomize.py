"""Python imports this when it starts: a process whose disk is broken gives up soon, not after a quarter of a minute."""

from rbkit import resilience

resilience.PATIENCE_S = 0.5
