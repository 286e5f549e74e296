"""The table of users that providers of single sign-on know."""
