"""Checks of arguments, functions, batches and files of users; nothing here is public."""

__all__: list[str] = []
