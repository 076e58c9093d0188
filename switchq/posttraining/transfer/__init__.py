"""Carrying AWQ's statistics from a small model to a larger one, and measuring what that costs."""
