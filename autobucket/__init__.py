"""C(s, a): what each joint action costs, from action results and load tests."""
