"""Cryptographic parts: ratchets, attachments and sealing of data at rest. No decisions are taken
here."""
