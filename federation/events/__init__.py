"""Single events: identifiers, JSON, signing, room versions, format, redaction, hashes. Pure."""
