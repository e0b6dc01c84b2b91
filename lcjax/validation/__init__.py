"""Checks of what users pass in: arguments, functions, batches, files."""
