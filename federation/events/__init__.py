"""ONE event: identifiers, canonical JSON, signing, room versions, format, redaction, hashes. Pure."""
