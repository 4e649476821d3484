"""What does a request cost on a real service? Real load, the service's own CPU clocks, core-milliseconds (Eq. 26)."""
