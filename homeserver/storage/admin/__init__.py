"""What the operator is told, as rows."""
