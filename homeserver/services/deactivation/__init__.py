"""The end of an account: what is done in the background, and what is hidden from then on."""
