"""The tasks for the report: whoever writes a watcher does not look at them."""
