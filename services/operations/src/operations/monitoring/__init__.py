"""What operations knows of queues, services and the journal."""
