"""Which joint action each state gets under one budget or several, and how far that can be from the best."""
