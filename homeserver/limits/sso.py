"""Limits of single sign-on."""

SSO_PROVIDERS = 20
"""Providers of a configuration: a page lists them."""

SSO_SESSION_S = 900
"""How long a log-in at a provider may take."""

SSO_SESSIONS = 10_000
"""Log-ins at providers in progress; anybody can begin one. Beyond it the oldest goes."""

SSO_BYTES = 256 * 1024
"""What a provider may say: a set of keys, a token."""

SSO_S = 15.0
"""How long a provider may take for an answer; a browser waits."""

SSO_METADATA_S = 3600
"""How long a provider's description is used before it is read again."""

SSO_KEYS_S_LEAST = 60
"""How soon a provider's keys are read again, for a token whose key isn't known: providers change
keys, and tokens with made-up ones mustn't make us ask each time."""

SSO_CLOCK_SKEW_S = 120
"""By how much a provider's clock may be wrong."""

SSO_SUBJECT_CHARACTERS = 512
"""A provider's name of a user; OpenID Connect has 255."""

SSO_NAMES_TRIED = 20
"""Names that are tried for a new user, with a number behind, if others have the first."""

SSO_REDIRECT_CHARACTERS = 4_000
"""Where a client wants the browser to go afterwards."""
