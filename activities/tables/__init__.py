"""The audience tables: types, Delta Lake, imports."""
