"""What each layer of a folder becomes, and the weights that it then has."""

__all__: list[str] = []
