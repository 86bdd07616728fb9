"""Publishing and consuming without loss and without duplicate effects."""
