"""Limits of e-mail."""

EMAIL_CHARACTERS = 254
"""An e-mail address: the longest that fits into SMTP's path (RFC 5321, 4.5.3.1.3)."""

EMAIL_LOCAL_CHARACTERS = 64
"""What stands before the @ (RFC 5321, 4.5.3.1.1)."""

MAIL_SUBJECT_CHARACTERS = 200
"""A subject; it may have names in it that users choose."""

MAILS_QUEUED = 500
"""Mails that wait for a mail server, with those under way; some 10 KB each. Beyond it the request
is answered with 503."""

MAILS_AT_ONCE = 4
"""Connections to the mail server at once: what common ones allow a client."""

MAIL_TRIES = 8
"""Tries of one mail, over some 20 minutes: servers that refuse strangers at first ("grey-listing")
take it within that time."""

MAIL_WAIT_S_LEAST = 10.0
"""Wait after the first failure; doubled with each."""

MAIL_WAIT_S_MOST = 900.0
"""The longest wait between two tries."""

MAIL_EXCHANGE_S = 30.0
"""How long the mail server may take for each of its answers."""
