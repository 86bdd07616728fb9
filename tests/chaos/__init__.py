"""`make chaos`: the processes that users run, under load, while everything around them breaks."""
