"""Jobs that run on a schedule, once for all replicas."""
