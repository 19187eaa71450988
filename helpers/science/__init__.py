"""What a result is worth: intervals, errors, groups, evidence."""
