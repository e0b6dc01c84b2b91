"""Which sites to collapse under a budget."""
