"""The open stand-in for private logs: users and traffic, a cascade, revenue, costs and CPUs, with known truth."""
