"""The only place that knows Ray and MLflow."""

import os

# MLflow tells its makers which of its functions are called, unless it is told not to.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
