"""What is known of history that isn't here: gaps, and verdicts that wait for what fills them."""
