"""The console: pages for the same engine as the API. They contain no scripts."""
