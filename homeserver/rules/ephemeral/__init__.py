"""Checks of receipts."""
