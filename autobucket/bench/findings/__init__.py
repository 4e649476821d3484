"""What came out? Bucket table, load-test rows, checks of the fitted maps, figures and the report page."""
