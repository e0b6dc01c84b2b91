"""Tests of train.examples."""
