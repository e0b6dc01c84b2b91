"""Model folders on disk: read tensor by tensor, and written whole or not at all."""

__all__: list[str] = []
