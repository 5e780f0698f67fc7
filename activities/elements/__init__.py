"""What each element of a journey does for a user, and what all of them share."""
