"""Replays of dead letters and of the journal."""
