"""Compression methods that lcjax is compared with, healed with the same budget."""
