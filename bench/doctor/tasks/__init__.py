"""The tasks for tuning a watcher."""
