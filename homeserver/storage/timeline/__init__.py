"""Events as rows, and what is known of those that are missing."""
