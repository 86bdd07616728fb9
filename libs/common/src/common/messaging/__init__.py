"""Publishing and consuming without losing or doubling anything."""
