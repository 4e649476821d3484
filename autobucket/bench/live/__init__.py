"""Can its CPU be steered? A compressed day of traffic with a controller that sets queue lengths."""
