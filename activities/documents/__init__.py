"""Documents: reading, checking and saving journeys and segments."""
