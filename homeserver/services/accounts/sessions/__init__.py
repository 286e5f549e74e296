"""What sessions begin and go on with, beside passwords: refresh and login tokens, OpenID."""
