"""Single sign-on: providers, and the users that they name."""
