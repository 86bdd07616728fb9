"""The scenarios of `make demo` and its variants, on this machine."""
