"""Pyro programs and what they are."""
