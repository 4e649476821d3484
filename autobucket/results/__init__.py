"""What does an action result in? The estimator: request log, network, tasks, trained model."""
