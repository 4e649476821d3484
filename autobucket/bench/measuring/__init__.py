"""How is it measured? Requests, buckets, open-loop load, rounds, and the journal of finished measurements."""
