"""One definition of each number that more than one room prints; the list stands in docs/metrics.md."""
