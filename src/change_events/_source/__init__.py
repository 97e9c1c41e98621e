"""Reads the source."""
