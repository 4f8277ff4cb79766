"""Real processes on loopback on which runbooks are shown, practised and tested."""
