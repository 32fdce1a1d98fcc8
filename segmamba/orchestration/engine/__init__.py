"""A study's trials: planned, launched with Ray, and kept going."""
