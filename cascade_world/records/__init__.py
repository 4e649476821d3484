"""What a platform would have logged: requests, the system table, load tests, and the policies behind them."""
