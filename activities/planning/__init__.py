"""What a journey would do, worked out by polars over one snapshot before anything is sent."""
