"""Training runs in tools that researchers know: TensorBoard shows them, Optuna searches settings."""
