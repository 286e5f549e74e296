"""What receipts may say."""
