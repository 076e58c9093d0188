"""Rounders, one a file."""
