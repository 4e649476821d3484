"""One page for a run: draws the simulated day and gathers every room's figures and tables into a single HTML file."""
