"""The cascade as a service: a process that answers HTTP, and one that computes."""
