"""Exports models to formats that run without this library."""
