"""How much traffic is coming? Back-tested forecasts, and the calendar of planned events."""
