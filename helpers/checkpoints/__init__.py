"""Published weights: their table, the record of what was seen, and files that any backend loads."""
