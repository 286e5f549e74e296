"""Limits of URL previews."""

PREVIEW_URL_CHARACTERS = 2_048
"""Of a URL that is fetched, or that an answer repeats."""

PREVIEW_PAGE_BYTES = 1024 * 1024
"""Of a page: what comes after it isn't read. Metadata stand at the beginning."""

PREVIEW_OEMBED_CONTAINERS = 1_000
"""Arrays and objects in an oEmbed answer, which has one."""

PREVIEW_OEMBED_DEPTH = 20
"""Nesting of an oEmbed answer."""

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

WEB_CONNECTIONS = 50
"""Connections to web servers at once."""

WEB_CONNECT_S = 8.0
"""How long a web server may take to accept a connection."""

WEB_PART_BYTES = 64 * 1024
"""What is read from a web server at once."""
