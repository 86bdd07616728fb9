"""`make bench`: Paybus beside the design it replaces, in one run on one machine."""
