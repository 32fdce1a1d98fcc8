"""Pages, tables and figures of finished studies."""
