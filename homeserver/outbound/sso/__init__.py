"""Providers of single sign-on, as clients of theirs."""
