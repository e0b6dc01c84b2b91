"""The best choice of one option for every site within budgets."""

__all__: list[str] = []
