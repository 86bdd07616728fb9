"""What `make demo` and its kin play through, on this machine."""
