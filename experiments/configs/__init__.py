"""Configurations: one lab note a file."""
