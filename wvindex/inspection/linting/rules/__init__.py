"""Rules by group: each module ends with the part of the table that is its own."""
