"""The MLflow store: studies and trials written to it and read back."""
