"""What an allocation would have earned, and how far it is from the best possible."""
