"""Where journals and tapes are kept."""
