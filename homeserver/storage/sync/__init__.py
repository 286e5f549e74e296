"""What clients ask of a sync, as rows."""
