"""What every joint action shows, earns and costs."""
