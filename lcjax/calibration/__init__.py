"""Statistics of a network's values on data."""
