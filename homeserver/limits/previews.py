"""Limits of URL previews."""

PREVIEW_URL_CHARACTERS = 2_048
"""Of a URL that is fetched, or that an answer repeats."""

PREVIEW_PAGE_BYTES = 1024 * 1024
"""Of a page: what comes after it isn't read. Metadata stand at the beginning."""

PREVIEW_OEMBED_BYTES = 128 * 1024
"""Of an oEmbed answer."""

PREVIEW_OEMBED_CONTAINERS = 1_000
"""Arrays and objects in an oEmbed answer, which has one."""

PREVIEW_OEMBED_DEPTH = 20
"""Nesting of an oEmbed answer."""

PREVIEW_IMAGE_BYTES = 8 * 1024 * 1024
"""Of a picture that stands for a page; held in memory as a whole."""

PREVIEW_PAGE_S = 12.0
"""How long a page may take, with its redirects."""

PREVIEW_PART_S = 8.0
"""How long its oEmbed answer, and its picture, may take each: clients wait for 30 s at least."""

PREVIEW_REDIRECTS = 5
"""Redirects followed for each of them."""

PREVIEW_ELEMENTS = 1_000
"""Elements of a kind that are looked at in a page."""

PREVIEW_PROPERTIES = 50
"""Properties of an answer."""

PREVIEW_PROPERTY_CHARACTERS = 100
"""Of a property's name."""

PREVIEW_TITLE_CHARACTERS = 300
"""Of a title."""

PREVIEW_TEXT_CHARACTERS = 1_000
"""Of a description, and of other values."""

PREVIEW_CHARSET_SEARCH_BYTES = 4_096
"""Where a page says its charset; HTML asks for 1,024, and pages don't always keep to it."""

PREVIEW_PORTS = 32
"""Ports in the configuration."""

PREVIEWS_AT_ONCE = 8
"""Previews made at once, each with some `PREVIEW_IMAGE_BYTES` in memory at worst."""

PREVIEWS_WAITING = 400
"""Previews that wait, of all users."""

PREVIEWS_WAITING_OF_CAUSE = 60
"""Previews that wait for one user: a client asks for those of the links it shows."""

PREVIEWS_RETRY_AFTER_S = 10
"""Told with a 429 when too many wait."""

PREVIEW_AGE_S = 3600
"""How long a preview is given out before the page is fetched again."""

PREVIEW_FAILURE_AGE_S = 300
"""How long it is remembered that there is no preview."""

PREVIEW_FAILURES = 10_000
"""Pages without a preview that are remembered."""

PREVIEWS_STORED = 100_000
"""Previews in the database, a kilobyte each; beyond it the oldest go."""

PREVIEW_PICTURES_BYTES = 4 * 1024**3
"""Pictures of previews in the store: no user's quota has them. Beyond it the oldest previews go."""

PREVIEW_PICTURES_UNPRUNED_BYTES = 256 * 1024 * 1024
"""New pictures after which it is looked at once whether they are too many."""

PREVIEW_IMAGE_KEPT_S = 7 * 24 * 3600
"""How long a preview and its picture stay after the preview is too old: clients show it still."""

PREVIEWS_PRUNE_S = 1800
"""The interval of deleting old previews."""

PREVIEWS_PRUNED_AT_ONCE = 500
"""Previews deleted in one transaction."""

WEB_CONNECTIONS = 50
"""Connections to web servers at once."""

WEB_CONNECT_S = 8.0
"""How long a web server may take to accept a connection."""

WEB_PART_BYTES = 64 * 1024
"""What is read from a web server at once."""
