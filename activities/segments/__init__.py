"""Segments: the compiler of conditions to polars, and memberships."""
