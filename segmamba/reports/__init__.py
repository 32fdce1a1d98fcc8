"""Pages and figures of a finished study."""
