"""Who asks, and when: states, hidden classes, money scales and arrivals."""
