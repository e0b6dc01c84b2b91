"""Data sets prepared by TFDS."""
