"""Properties of every value of a traced program."""
