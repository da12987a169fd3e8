"""This release and an earlier one on the same database: beside each other, one after the other, and back."""
