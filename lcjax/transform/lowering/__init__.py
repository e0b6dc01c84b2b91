"""From chosen sites to the program that runs."""
