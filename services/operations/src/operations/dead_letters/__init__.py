"""Dead letters: collected, parsed, stored, masked, searched."""
