"""Drawings of journeys: what each box says, where it stands, and the two forms it is written in."""
