"""Statistics, comparison and reports."""
