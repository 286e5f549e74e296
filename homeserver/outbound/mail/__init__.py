"""E-mail: written from templates, and handed to a mail server."""
