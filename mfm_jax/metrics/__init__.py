"""Measures of sample quality."""
