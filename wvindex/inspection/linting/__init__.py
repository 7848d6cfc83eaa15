"""A linter for checkpoints: rules in a table, what they find, and where."""
