"""Command-line tools that read a server's database."""
