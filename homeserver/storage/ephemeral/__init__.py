"""Receipts as rows."""
