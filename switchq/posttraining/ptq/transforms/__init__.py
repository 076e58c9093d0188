"""Transforms, one a file."""
